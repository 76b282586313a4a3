"""The command: one process, two under torchrun, and its answers to bad input."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cannonade.cli import app
from cannonade.errors import InputError
from cannonade.models import load_model

# Without batch norm, so that two processes with half a batch each do what one does with the whole.
OWN = """
from torch import nn

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
"""
OPTIONS = {"--defense": "smoothing(sigma=0.1)", "--votes": "3", "--batch": "10", "--epochs": "2", "--size": "12"}


@pytest.fixture
def folder(tmp_path, arrays, monkeypatch):
    for name, count, seed in (("train", 47, 0), ("val", 23, 1)):
        images, labels = arrays(count, seed)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels * 100)
    (tmp_path / "own_training.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_training", None)


def words(out, **changes):
    options = {"--model": "own_training:plain", "--data": "train.npz", "--val": "val.npz"} | OPTIONS | changes
    return ["finetune", "--workers", "0", *(part for option in options.items() for part in option), "--out", str(out)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_small_image_model_from_scratch_to_evaluation(folder):
    model = {"--model": "resnet_tiny(width=4, blocks=1)", "--scratch": "--no-augment"}
    ran = CliRunner().invoke(app, words("run", **model))
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("by vote") == 2
    classifier = load_model("resnet_tiny", weights=folder / "run" / "best.safetensors")
    assert classifier.class_numbers == (0, 100, 200)
    ran = CliRunner().invoke(
        app,
        "vote --model resnet_tiny --weights run/best.safetensors --data val.npz --votes 3 --stop none --out votes.jsonl "
        "--defense smoothing(sigma=0.1)",
    )
    assert ran.exit_code == 0, ran.output
    best = max(
        line["validation"]["accuracy"] for line in lines(folder / "run" / "log.jsonl") if line["kind"] == "epoch"
    )
    right = sum(record["decision"] == record["label"] for record in lines(folder / "votes.jsonl"))
    assert right == round(best * 23), "the same draws, labels and weights as in training"


def test_two_processes(folder):
    """Under torchrun: the weights of one process, and every validation image judged once."""
    ran = CliRunner().invoke(app, words("one", **{"--limit": "40"}))
    assert ran.exit_code == 0, ran.output
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [*launch, "-m", "cannonade.cli", *words("two", **{"--limit": "40", "--accumulate": "5"})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(folder / name / "last.safetensors") for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    judged = [lines(folder / name / "validation.jsonl") for name in ("one", "two")]
    assert [record["id"] for record in judged[1]] == list(range(23))
    epochs = [
        [line for line in lines(folder / name / "log.jsonl") if line["kind"] == "epoch"] for name in ("one", "two")
    ]
    assert [line["images"] for line in epochs[1]] == [line["images"] for line in epochs[0]] == [40, 40]
    assert [line["loss"] for line in epochs[1]] == pytest.approx([line["loss"] for line in epochs[0]], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--defense": "smothing"}, "did you mean smoothing"),
        ({"--val": "none.npz"}, "data must be"),
        ({"--batch": "9", "--accumulate": "2"}, "batch must be a multiple of passes times processes, 2, got 9"),
        ({"--model": "no_such_model"}, "no model is named"),
        ({"--weights": "none.safetensors"}, "no such file"),
        ({"--val": "other.npz"}, "must have the same classes, missing in validation: 100"),
    ],
)
def test_bad_input(folder, arrays, changes, message):
    images, labels = arrays(9, 2)
    np.savez(folder / "other.npz", images=images, labels=np.where(labels == 1, 5, labels * 100))
    ran = CliRunner().invoke(app, words("run", **changes))
    assert isinstance(ran.exception, InputError), ran.output
    assert message in str(ran.exception)
    assert not (folder / "run").exists()
