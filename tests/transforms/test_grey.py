"""Mixes towards grey: the law of their parameters, white's gradient, batches."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.grey import (
    GreyScaleMix,
    GreyScalePartialMix,
    OneChannelPartialGrey,
    TwoThirdsGreyScaleMix,
)

FALSE_ALARM = 1e-4
KINDS = (GreyScaleMix, GreyScalePartialMix, TwoThirdsGreyScaleMix, OneChannelPartialGrey)


def params(transform, count):
    ids = torch.arange(count)
    draws = Draws(seed=8, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, 17, 31)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_shares_with_the_law_of_uniform_numbers_over_their_sum(kind):
    weights = params(kind(), 20_000)["weights"].double()
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000, dtype=torch.float64), rtol=0, atol=1e-6)
    count = weights.shape[1]
    numbers = torch.rand(50_000, count, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = numbers / numbers.sum(1, keepdim=True)
    for channel in range(count):
        assert stats.ks_2samp(weights[:, channel], expected[:, channel]).pvalue > FALSE_ALARM / 3


def test_channels_are_equally_likely_and_shares_uniform():
    for kind in (TwoThirdsGreyScaleMix, OneChannelPartialGrey):
        assert stats.chisquare(params(kind(), 20_000)["channel"].bincount(minlength=3)).pvalue > FALSE_ALARM
    share = params(OneChannelPartialGrey(), 20_000)["share"].double()
    assert stats.kstest(share, stats.uniform(0.1, 0.8).cdf).pvalue > FALSE_ALARM


def test_kept_share_is_at_least_a_fifth_with_an_atom_there():
    kept = params(GreyScalePartialMix(), 10_000)["kept"].double().flatten()
    atom = kept == kept.min()
    assert abs(kept.min() - 0.2) < 1e-7
    assert stats.binomtest(int(atom.sum()), len(kept), 0.2).pvalue > FALSE_ALARM
    assert stats.kstest(kept[~atom], stats.uniform(0.2, 0.8).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize("kind", KINDS)
def test_white_stays_white_with_its_gradient(kind):
    drawn = params(kind(), 200)
    images = torch.ones(200, 3, 16, 16, requires_grad=True)
    out = kind().apply(images, drawn)
    assert out.max() <= 1
    torch.testing.assert_close(out, images, rtol=0, atol=1e-6)
    gradient = torch.autograd.grad(out.sum(), images)[0]
    torch.testing.assert_close(gradient.sum(1), torch.full((200, 16, 16), 3.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind):
    drawn = params(kind(), 4)
    images = torch.rand(4, 3, 3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kind().apply(x, drawn), images)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_single_images(kind):
    transform, drawn = kind(), params(kind(), 3)
    images = torch.rand(3, 3, 17, 31, generator=torch.Generator().manual_seed(4))
    out = transform.apply(images, drawn)
    for row in range(3):
        own = {key: value[row : row + 1] for key, value in drawn.items()}
        assert torch.equal(out[row], transform.apply(images[row : row + 1], own)[0])
    assert transform.apply(images[:0], params(transform, 0)).shape == (0, 3, 17, 31)


def test_kept_channels_are_kept_exactly():
    images = torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    drawn = params(TwoThirdsGreyScaleMix(), 50)
    out = TwoThirdsGreyScaleMix().apply(images, drawn)
    rows = torch.arange(50)
    assert torch.equal(out[rows, drawn["channel"]], images[rows, drawn["channel"]])
    drawn = params(OneChannelPartialGrey(), 50)
    out = OneChannelPartialGrey().apply(images, drawn)
    for other in (1, 2):
        kept = (drawn["channel"] + other) % 3
        assert torch.equal(out[rows, kept], images[rows, kept])


def test_wrong_ranges_are_named():
    with pytest.raises(InputError, match="GreyScalePartialMix"):
        GreyScalePartialMix(least=1.5)
    with pytest.raises(InputError, match="OneChannelPartialGrey: share"):
        OneChannelPartialGrey(share=(0.5, 1.5))
