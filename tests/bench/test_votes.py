"""Replaying recorded votes is voting: the same draws, the same stops."""

import pytest
import torch
from torch import nn

from cannonade.bench.votes import cast_votes, compare, count
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote


@pytest.fixture(scope="module")
def recorded():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    defended = DefendedClassifier(Classifier(net, input_size=(8, 8)), Smoothing(sigma=0.3))
    images, ids = torch.rand(20, 3, 8, 8, generator=generator), torch.arange(20) + 5
    return defended, images, ids, cast_votes(defended, images, ids, 60)


@pytest.mark.parametrize(("rule", "stop"), [("exact", "exact"), ("sequential", "sequential")])
def test_replayed_votes_are_those_of_the_engine(recorded, rule, stop):
    defended, images, ids, votes = recorded
    assert votes.shape == (20, 60)
    everything = list(compare(votes, 4, alpha=0.01))[-1]
    assert everything.images == 20
    cast = majority_vote(defended, images, 60, stop=stop, alpha=0.01, phase=Phase.BENIGN_VOTE, ids=ids, chunk=7)
    assert everything.used[rule] == pytest.approx(float(cast.used.double().mean()))
    full = majority_vote(defended, images, 60, phase=Phase.BENIGN_VOTE, ids=ids)
    assert torch.equal(full.counts, count(votes, 4))
    assert everything.disagreements[rule] == int((cast.labels != full.labels).sum())


def test_bins_hold_every_image_once(recorded):
    *bins, everything = compare(recorded[3], 4, alpha=0.01)
    assert sum(row.images for row in bins) == everything.images == 20
    assert all(row.low < row.high for row in bins)
