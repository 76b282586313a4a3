"""Colour precision reduction: the law of its scales and its straight-through gradient."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.precision import ColourPrecisionReduction

FALSE_ALARM = 1e-4


def scales(transform, count=30_000):
    ids = torch.arange(count)
    draws = Draws(seed=3, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, 16, 16)))["scale"]


def test_scales_are_uniform():
    for channel in scales(ColourPrecisionReduction()).unbind(1):
        assert channel.min() == 8
        assert channel.max() == 200
        assert stats.chisquare(channel.bincount()[8:]).pvalue > FALSE_ALARM


def test_half_of_the_images_share_one_scale():
    scale = scales(ColourPrecisionReduction())
    shared = int((scale == scale[:, :1]).all(1).sum())
    by_chance = 1 / 193**2
    assert stats.binomtest(shared, len(scale), 0.5 + 0.5 * by_chance).pvalue > FALSE_ALARM
    first, second = scale[scale[:, 0] != scale[:, 1], :2].double().T
    assert stats.pearsonr(first, second).pvalue > FALSE_ALARM


def test_rounds_half_to_even():
    halves = torch.tensor([0.25, 0.75, 0.5]).expand(1, 3, 16, 3).contiguous()
    out = ColourPrecisionReduction().apply(halves, {"scale": torch.tensor([[2, 10, 1]])})
    assert out[0, :, 0].tolist() == [[0, 1, 0.5], [pytest.approx(0.2), pytest.approx(0.8), 0.5], [0, 1, 0]]


def test_backward_is_the_identity():
    images = torch.rand(2, 3, 17, 31, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = ColourPrecisionReduction().apply(images, {"scale": torch.tensor([[8, 9, 10], [200, 200, 200]])})
    weights = torch.linspace(-1, 1, 31).expand_as(out)
    for _ in range(2):
        assert torch.equal(torch.autograd.grad(out, images, weights, retain_graph=True)[0], weights)


def test_rejects_bad_ranges():
    with pytest.raises(InputError, match=r"ColourPrecisionReduction: scale .* got \(0, 200\)"):
        ColourPrecisionReduction(scale=(0, 200))
    with pytest.raises(InputError, match="shared is a probability"):
        ColourPrecisionReduction(shared=1.5)
