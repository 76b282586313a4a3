"""Certificates both ways: the same predictions, fewer of them, and decisions that are compared."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cannonade.bench import certify as bench
from cannonade.certification import certify
from cannonade.classifier import Classifier
from cannonade.cli import app
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.transforms.noise import Smoothing

SETTINGS = {"radius": 0.1, "n0": 20, "n": 300, "alpha": 1e-3, "rounds": 1}


class Brighter(nn.Module):
    """Two classes: whether the left half of the image is the brighter one."""

    def forward(self, images):
        left, right = images.split(4, dim=3)
        return torch.stack((left.mean((1, 2, 3)), right.mean((1, 2, 3))), dim=1) * 50


@pytest.fixture(scope="module")
def subject():
    """Images from far off the border to right on it."""
    defended = DefendedClassifier(Classifier(Brighter(), input_size=(8, 8)), Smoothing(sigma=0.25))
    images = torch.full((6, 3, 8, 8), 0.5)
    images[..., :4] += torch.tensor([0.3, 0.2, 0.1, 0.05, 0.02, 0.0]).view(6, 1, 1, 1)
    return defended, images, torch.arange(6) + 3


def test_both_ways(subject):
    defended, images, ids = subject
    found = bench.compare(defended, images, ids=ids, **SETTINGS)
    fixed, sequential = found.rows
    assert (fixed.rule, sequential.rule) == ("fixed", "sequential")
    assert fixed.predictions == 320
    assert sequential.predictions < 320
    direct = certify(defended, images, n0=20, n=300, alpha=1e-3, ids=ids)
    assert fixed.certified == pytest.approx(float((direct.radius >= 0.1).double().mean()))
    asked = certify(defended, images, n0=20, n=300, alpha=1e-3, ids=ids, radius=0.1)
    assert sequential.certified == pytest.approx(float((asked.labels >= 0).double().mean()))
    assert 0 < fixed.certified < 1
    assert found.differing == int(((direct.radius >= 0.1) != (asked.labels >= 0)).sum())


def test_other_predictions_are_not_compared(subject, monkeypatch):
    defended, images, ids = subject

    def other(*arguments, radius, **settings):
        made = certify(*arguments, radius=radius, **settings)
        return made if radius is None else replace(made, selected=1 - made.selected)

    monkeypatch.setattr(bench, "certify", other)
    with pytest.raises(InputError, match="not the same"):
        bench.compare(defended, images, ids=ids, **SETTINGS)
    with pytest.raises(InputError, match="rounds must be"):
        bench.compare(defended, images, ids=ids, **SETTINGS | {"rounds": 0})


def test_command(toy, tmp_path):
    out = tmp_path / "certify.json"
    arguments = ["--model", toy["model"], "--data", toy["data"], "--n", "200", "--radius", "0.05", "--rounds", "1"]
    ran = CliRunner().invoke(app, ["bench", "certify", *arguments, "--sigma", "0.1", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    record = json.loads(out.read_text())
    assert [row["rule"] for row in record["rows"]] == ["fixed", "sequential"]
    assert record["rows"][0]["predictions"] == 250
    assert f"{record['differing']} of 4 images" in ran.output
