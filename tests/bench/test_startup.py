"""Processes timed from their start: one that fails is no figure, and the first gradient is one that was really taken."""

import json
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from cannonade.bench import startup
from cannonade.bench.timing import Timing
from cannonade.cli import app
from cannonade.errors import InputError


def python(code):
    return [sys.executable, "-c", code]


def test_a_process_that_fails_is_not_a_figure():
    startup._process(python("pass"))()
    with pytest.raises(InputError, match="status 3: no torch here"):
        startup._process(python("import sys; print('no torch here', file=sys.stderr); sys.exit(3)"))()


def test_a_process_is_timed_until_its_first_gradient():
    began = time.monotonic()
    startup._until_gradient(python("import time; print('first gradient', flush=True); time.sleep(60)"))()
    assert time.monotonic() - began < 30
    with pytest.raises(InputError, match=r"status 0: —"):
        startup._until_gradient(python("print('no gradient')"))()


def test_the_evaluation_takes_a_gradient():
    startup._until_gradient([sys.executable, "-m", "cannonade.cli", *startup._evaluation(True, "samples")])()


def test_the_classifier_speaks_of_gradients_alone(capsys):
    classifier = startup.announcing_random()
    leaf = torch.rand(1, 3, 64, 64).requires_grad_()
    logits = classifier(leaf)
    assert capsys.readouterr().out == ""
    logits.sum().backward()
    assert capsys.readouterr().out == "first gradient\n"
    assert classifier.folded


def test_command_says_what_is_missed(tmp_path, monkeypatch):
    def timed(cases, rounds):
        seconds = {"import torch, torchvision": 2.0, "import of all public names": 2.7, "cannonade --help": 0.5}
        return {name: Timing((0.1, 0.1, seconds.get(name, 1.0), 9.0, 9.0)) for name in cases}

    monkeypatch.setattr(startup, "interleaved", timed)
    out = tmp_path / "startup.json"
    ran = CliRunner().invoke(app, ["bench", "startup", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["import of all public names"]["target"] == pytest.approx(2.6)
    assert rows["cannonade --help"]["target"] == 1.0
    assert rows["first gradient"]["target"] == 6.0
    words = {line.split("  ")[0].strip(): line.split()[-1] for line in ran.output.splitlines()}
    assert words["import of all public names"] == "missed"
    assert words["cannonade --help"] == words["first gradient"] == "met"
    ran = CliRunner().invoke(app, ["bench", "startup", "--rounds", "0"])
    assert isinstance(ran.exception, InputError)
