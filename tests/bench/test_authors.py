"""Votes beside the authors' manner: the same labels of the same draws, and nothing timed that is not the same network."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cannonade.bench import authors
from cannonade.bench.authors import Loop, votes_beside_loop
from cannonade.bench.subjects import random_network
from cannonade.bench.timing import Timing
from cannonade.bench.votes import cast_votes
from cannonade.classifier import Classifier
from cannonade.cli import app
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.errors import InputError

pytestmark = pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed")

SETTINGS = {"stops": [None, "sequential"], "alpha": 0.01, "timed": 4, "rounds": 1}


def subject(defense):
    source = random_network("resnet_tiny(width=4)", 5)
    classifier = Classifier(source.module, mean=source.mean, std=source.std, input_size=(24, 24))
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return DefendedClassifier(classifier, build_defense(defense)), Loop(source), images, torch.arange(3) + 7


def test_the_same_draws_give_the_same_labels_and_times_are_scaled(monkeypatch):
    def once(cases, rounds):
        assert rounds == 1
        for case in cases.values():
            case()
        return {
            name: Timing(tuple(place * seconds for seconds in (6.0, 2.0, 3.0, 6.0, 2.0)))
            for place, name in enumerate(cases, 1)
        }

    monkeypatch.setattr(authors, "interleaved", once)
    defended, loop, images, ids = subject("bart_gao(k=2)")
    quiet = subject("bart(k=2, transforms=('swirl', 'gaussian_blur'))")[0]
    for place, each in enumerate((defended, quiet)):
        votes = cast_votes(each, images, ids, 20)
        full, early, theirs = votes_beside_loop(each, loop, images, ids, votes, **SETTINGS)
        assert [row.way for row in (full, early, theirs)] == ["none", "sequential", "authors' manner"]
        assert (full.votes, full.timed, full.differing) == (20, 20, 0)
        assert early.votes <= 20
        assert (full.seconds, full.quartiles) == (1.0, (2 / 3, 2.0))
        assert (theirs.seconds, theirs.quartiles) == (pytest.approx(9 * 20 / 4 / 3), pytest.approx((10, 30)))
        assert (full.ratio, *full.ratio_interval) == pytest.approx((theirs.seconds / full.seconds,) * 3)
        if place:
            assert theirs.agreeing == 1.0, "without noise the oracles are ours but for rounding"


def test_labels_that_differ_are_counted():
    defended, loop, images, ids = subject("bart_gao(k=2)")
    votes = cast_votes(defended, images, ids, 6)
    votes[1] = (votes[1, 0] + 1) % 5
    row, _ = votes_beside_loop(defended, loop, images, ids, votes, stops=[None], alpha=0.01, timed=1, rounds=1)
    assert row.differing == 1


def test_refusals():
    defended, loop, images, ids = subject("bart_gao(k=2)")
    votes = cast_votes(defended, images, ids, 4)
    with pytest.raises(InputError, match="must be 1 to 4"):
        next(votes_beside_loop(defended, loop, images, ids, votes, **SETTINGS | {"timed": 5}))
    with pytest.raises(InputError, match="use bart or bart_gao"):
        next(votes_beside_loop(subject("smoothing")[0], loop, images, ids, votes, **SETTINGS))
    other = Loop(random_network("resnet_tiny(width=8)", 5))
    with pytest.raises(InputError, match="must be the same network"):
        next(votes_beside_loop(defended, other, images, ids, votes, **SETTINGS))


def test_command_keeps_the_logits_of_the_data_s_classes(tmp_path):
    weights, out = tmp_path / "weights.safetensors", tmp_path / "votes.json"
    save_file(random_network("resnet_tiny(width=4)", 1000).module.state_dict(), weights)
    arguments = [
        "--model", "resnet_tiny(width=4)", "--weights", str(weights), "--data", "samples", "--limit", "3", "--restrict",
        "--defense", "bart_gao(k=2)", "--n", "6", "--loop", "2", "--stop", "exact", "--rounds", "1", "--out", str(out),
    ]  # fmt: skip
    ran = CliRunner().invoke(app, ["bench", "votes", *arguments])
    assert ran.exit_code == 0, ran.output
    assert "2 of 6 predictions timed, and scaled" in ran.output
    rows = json.loads(out.read_text())["beside_loop"]
    assert [(row["way"], row["differing"]) for row in rows] == [("exact", 0), ("authors' manner", None)]
    ran = CliRunner().invoke(app, ["bench", "votes", *arguments, "--stop", "never"])
    assert isinstance(ran.exception, InputError)
