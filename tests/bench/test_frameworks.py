"""The table of frameworks on a small net behind strong noise: every row attacks, and ours are one attack."""

import pytest
import torch
from torch import nn

from cannonade.bench.frameworks import OURS, THEIRS, Row, measure, pairs
from cannonade.bench.peers import Budget, secml_torch_pgd
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.evaluation.paired import Paired
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

# foolbox, ART and adv_lib use what others have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BUDGET = Budget(eps=0.08, steps=6, step_size=0.02, samples=3)


def test_every_framework_in_both_directions():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 24), nn.Tanh(), nn.Linear(24, 5))
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    defended = DefendedClassifier(Classifier(net, input_size=(8, 8)), Smoothing(sigma=0.1))
    images = 0.2 + 0.6 * torch.rand(40, 3, 8, 8, generator=generator)
    labels = majority_vote(defended, images, 30).labels
    rows = list(measure(defended, images, labels, BUDGET, votes=30, batch=25))
    assert {row.framework for row in rows if row.direction == "theirs"} == set(THEIRS)
    assert [row.framework for row in rows if row.direction == "ours"] == list(OURS)
    assert len(rows) == 2 * len(THEIRS) - 1 + len(OURS)
    assert [pair.framework for pair in pairs(rows)] == [name for name, (_, _, loops) in THEIRS.items() if loops]
    direct = next(row for row in rows if row.framework == "none")
    assert direct.success > 0.2
    for row in rows:
        assert row.success > 0.5 * direct.success, row
        if row.direction == "ours" and row.framework != "AutoAttack":
            assert (row.success, row.lucky) == (direct.success, direct.lucky), row
    theirs = measure(defended, images, labels, BUDGET, votes=1, batch=40, adapters=False)
    assert [row.framework for row in theirs] == [row.framework for row in rows if row.direction == "theirs"]
    with pytest.raises(ValueError, match="averages no draws"):
        secml_torch_pgd(defended, images, labels, BUDGET)


def test_pairs_are_counted_image_by_image():
    def row(framework, direction, seconds, fooled):
        return Row(framework, direction, "", sum(fooled) / 4, 0.0, seconds, fooled)

    rows = [
        row("a", "theirs", 6.0, [True, True, False, False]),
        row("a", "theirs", 2.0, [True, False, True, True]),
        row("b", "theirs", 1.0, [True] * 4),
        row("a", "ours", 1.0, [True] * 4),
    ]
    (pair,) = pairs(rows)
    assert (pair.framework, pair.success, pair.counts, pair.speed) == ("a", (0.5, 0.75), Paired(1, 2, 4), 3.0)
