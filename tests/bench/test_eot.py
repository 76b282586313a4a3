"""The quality of an EOT gradient where it is known in closed form."""

import pytest
import torch
from torch import nn

from cannonade.bench.eot import measure
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.transforms.noise import Smoothing


class _Quadratic(nn.Module):
    """Logits (Σ x², 0): at x + noise the gradient of the margin is 2(x + noise), so tr Σ/‖g‖² = P·σ²/‖x‖²."""

    def forward(self, images):
        square = images.flatten(1).square().sum(1)
        return torch.stack((-square, torch.zeros_like(square)), dim=1)


def test_cosine_follows_theory_where_tau_is_known():
    image = torch.full((1, 3, 8, 8), 0.1)
    defended = DefendedClassifier(Classifier(_Quadratic(), input_size=(8, 8)), Smoothing(sigma=0.2, clip=False), seed=3)
    rows = list(
        measure(defended, image, torch.tensor([0]), loss="margin", samples=(1, 8), reference=2000, repetitions=100)
    )
    own = [row for row in rows if row.average == "loss"]
    assert [row.samples for row in own] == [1, 8]
    for row in own:
        assert row.tau == pytest.approx(4.0, rel=0.05)  # σ²/x² = 4
        assert abs(row.cosine / row.predicted - 1) < 0.05
        assert row.bias < 0.1
    # The margin of two classes is linear in the logits, so averaging these is averaging the loss.
    linear = [row for row in rows if row.average == "logits"]
    for mine, theirs in zip(linear, own, strict=True):
        assert mine.cosine == pytest.approx(theirs.cosine, abs=0.05)
