"""Filters of `bart_gao`: the laws of their parameters, the border, and what they refuse."""

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2.functional import gaussian_blur

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.gao import GaoGaussianBlur, GaoMedianFilter

FALSE_ALARM = 1e-4


def params(transform, count=20_000):
    ids = torch.arange(count)
    draws = Draws(seed=8, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, 64, 64)))


@pytest.mark.parametrize("transform", [GaoGaussianBlur(), GaoMedianFilter()])
def test_sides_are_uniform_odd_numbers_drawn_apart(transform):
    sides = params(transform)["sides"]
    assert (sides % 2 == 1).all()
    assert (sides.min(), sides.max()) == (3, 13)
    pairs = ((sides[:, 0] // 2 - 1) * 6 + sides[:, 1] // 2 - 1).bincount()
    assert len(pairs) == 36
    assert stats.chisquare(pairs).pvalue > FALSE_ALARM


def test_sigma_is_uniform():
    for sigma in params(GaoGaussianBlur())["sigma"].double().unbind(1):
        assert stats.kstest(sigma, stats.uniform(0.1, 3.0).cdf).pvalue > FALSE_ALARM


def test_blur_is_torchvisions():
    images = torch.rand(6, 3, 20, 33, generator=torch.Generator().manual_seed(2))
    drawn = params(GaoGaussianBlur(), len(images))
    out = GaoGaussianBlur().apply(images, drawn)
    for row, image in enumerate(images):
        sides, sigma = (drawn[name][row].flip(0).tolist() for name in ("sides", "sigma"))
        torch.testing.assert_close(out[row], gaussian_blur(image, sides, sigma), rtol=0, atol=1e-6)


def test_median_darkens_the_corners():
    out = GaoMedianFilter().apply(torch.ones(4, 3, 20, 20), params(GaoMedianFilter(), 4))
    assert (out[:, :, 0, 0] == 0).all()
    assert (out[:, :, 10, 10] == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaoGaussianBlur(sides=(2, 13)), "GaoGaussianBlur: sides must be odd"),
        (lambda: GaoGaussianBlur(sigma=(0.0, 1.0)), "GaoGaussianBlur: sigma"),
        (lambda: GaoMedianFilter(sides=(5, 3)), "GaoMedianFilter: sides"),
        (lambda: GaoMedianFilter(sides=(3, 12)), "GaoMedianFilter: sides must be odd"),
    ],
)
def test_bad_ranges_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_images_smaller_than_the_mirror_are_refused():
    draws = Draws(seed=8, phase=Phase.ATTACK, images=torch.arange(1), queries=torch.arange(1))
    with pytest.raises(InputError, match="GaoGaussianBlur: an image's sides"):
        GaoGaussianBlur(sides=(3, 41)).sample(draws, torch.Size((1, 3, 20, 64)))
