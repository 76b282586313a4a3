"""Window filters: the laws of their parameters, and what they refuse."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.denoising import GaussianBlur, MeanBilateralFilter, MeanFilter, MedianFilter

FALSE_ALARM = 1e-4


def params(transform, count=20_000):
    ids = torch.arange(count)
    draws = Draws(seed=7, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, 64, 64)))


def assert_uniform_integers(values, low, high):
    counts = values.bincount()
    assert counts.nonzero()[0] == low
    assert len(counts) == high + 1
    assert stats.chisquare(counts[low:]).pvalue > FALSE_ALARM


def test_sigma_is_uniform():
    sigma = params(GaussianBlur())["sigma"]
    for channel in range(3):
        assert stats.kstest(sigma[:, channel].double(), stats.uniform(0.1, 2.9).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("transform", "low", "high"), [(MedianFilter(), 2, 5), (MeanFilter(), 2, 3)])
def test_radius_is_uniform(transform, low, high):
    for radius in params(transform)["radius"].unbind(1):
        assert_uniform_integers(radius, low, high)


def test_bilateral_parameters_are_uniform_and_independent():
    drawn = params(MeanBilateralFilter())
    for name, low, high in (("radius", 2, 20), ("s0", 5, 20), ("s1", 5, 20)):
        for channel in drawn[name].unbind(1):
            assert_uniform_integers(channel, low, high)
    columns = torch.cat(list(drawn.values()), dim=1).double()
    correlations = columns.T.corrcoef() - torch.eye(9)
    assert correlations.abs().max() < stats.norm.isf(FALSE_ALARM / 72) / len(columns) ** 0.5


@pytest.mark.parametrize(
    ("kind", "name", "chance"),
    [(GaussianBlur, "sigma", 0.0), (MedianFilter, "radius", 1 / 16), (MeanFilter, "radius", 1 / 4)],
)
def test_half_the_images_share_one_value(kind, name, chance):
    """`chance`: that three values drawn apart are equal."""
    drawn = params(kind())[name]
    equal = int((drawn == drawn[:, :1]).all(1).sum())
    assert stats.binomtest(equal, len(drawn), 0.5 + 0.5 * chance).pvalue > FALSE_ALARM
    together, apart = (params(kind(shared=p), 1000)[name] for p in (1.0, 0.0))
    assert (together == together[:, :1]).all()
    assert not (apart == apart[:, :1]).all()


def test_a_shared_radius_treats_channels_alike():
    images = torch.rand(3, 1, 20, 17, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    drawn = params(MedianFilter(shared=1.0), 3)
    out = MedianFilter().apply(images, drawn)
    assert torch.equal(out, out[:, :1].expand_as(out))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(sigma=(0.0, 1.0)), "GaussianBlur: sigma"),
        (lambda: GaussianBlur(shared=1.5), "GaussianBlur: shared"),
        (lambda: MedianFilter(radius=(5, 2)), "MedianFilter: radius"),
        (lambda: MeanFilter(radius=(-1, 2)), "MeanFilter: radius"),
        (lambda: MeanBilateralFilter(radius=(2, 1)), "MeanBilateralFilter: radius"),
        (lambda: MeanBilateralFilter(spread=(0, 20)), "MeanBilateralFilter: spread"),
    ],
)
def test_bad_ranges_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
