"""JPEG noise: the law of its quality, its ranges, and images that have nothing to compress."""

import pytest
import torch
from scipy.stats import chisquare

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.jpeg import JpegNoise


def draws(count):
    return Draws(seed=0, phase=Phase.ATTACK, images=torch.arange(count), queries=torch.zeros(count, dtype=torch.int64))


def test_quality_is_uniform_with_both_ends():
    quality = JpegNoise().sample(draws(40_000), torch.Size((40_000, 3, 16, 16)))["quality"]
    counts = torch.bincount(quality - 55, minlength=41)
    assert counts.shape == (41,)
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_rounding_is_an_argument():
    x = torch.full((1, 3, 16, 16), 100.6 / 255)
    results = [JpegNoise(quality=(100, 100), rounding=rounding)(x, draws(1)) for rounding in ("truncate", "nearest")]
    assert [round(float(result.mean() * 255)) for result in results] == [100, 101]


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images(value):
    x = torch.full((2, 3, 17, 31), value, requires_grad=True)
    out = JpegNoise()(x, draws(2))
    torch.testing.assert_close(out, x, atol=1.01 / 255, rtol=0)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.isfinite().all()


def test_output_is_eight_bit_and_gradient_finite(photos):
    x = photos[:2, :, :33, :47].clone()
    x[1, 0] = 0.3
    x.requires_grad_()
    out = JpegNoise()(x, draws(2))
    codes = out.detach() * 255
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.autograd.grad(out.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": (0, 50)}, "jpeg_noise: quality"),
        ({"quality": (60, 50)}, "jpeg_noise: quality"),
        ({"rounding": "up"}, "jpeg_noise: rounding"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        JpegNoise(**arguments)
