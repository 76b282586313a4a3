"""Guo et al.'s transformations: what they keep, what they leave out, their straight-through gradients."""

import pytest
import torch

from cannonade.draws import Draws, Phase, Stream
from cannonade.errors import InputError
from cannonade.transforms.input_transformations import (
    BitDepthReduction,
    ImageQuilting,
    Jpeg,
    TotalVarianceMinimisation,
    patch_bank,
)
from cannonade.transforms.jpeg import JpegNoise

BANK = ImageQuilting.example["bank"]


def draws(count, query=0):
    return Draws(seed=0, phase=Phase.ATTACK, images=torch.arange(count), queries=torch.full((count,), query))


def random_images(count=3, height=17, width=31):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def cases():
    return [
        BitDepthReduction(),
        BitDepthReduction(rounding="truncate"),
        Jpeg(),
        TotalVarianceMinimisation(iterations=20),
        TotalVarianceMinimisation(isotropic=False, iterations=20),
        ImageQuilting(bank=BANK),
    ]


@pytest.mark.parametrize("transform", cases(), ids=repr)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images(transform, value):
    x = torch.full((2, 3, 17, 31), value, requires_grad=True)
    out = transform(x, draws(2))
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("transform", [case for case in cases() if case.name != "jpeg"], ids=repr)
def test_gradient_is_the_identity(transform):
    x = random_images().requires_grad_()
    out = transform(x, draws(3))
    weights = random_images() - 0.5
    (first,) = torch.autograd.grad(out, x, weights, retain_graph=True)
    (second,) = torch.autograd.grad(out, x, weights)
    assert torch.equal(first, weights)
    assert torch.equal(second, weights)


@pytest.mark.parametrize("transform", cases(), ids=repr)
def test_batch_equals_single_images_and_none(transform):
    x = random_images()
    out = transform(x, draws(3))
    for row in range(3):
        assert torch.equal(transform(x[row : row + 1], draws(3)[row : row + 1])[0], out[row])
    assert transform(x[:0], draws(3)[:0]).shape == (0, 3, 17, 31)


def test_three_bits_leave_eight_values():
    x = torch.linspace(0, 1, 1000).expand(1, 3, 16, 1000)
    nearest = BitDepthReduction()(x, draws(1)).unique()
    torch.testing.assert_close(nearest, torch.arange(8) / 7)
    truncated = BitDepthReduction(rounding="truncate")(x, draws(1)).unique()
    torch.testing.assert_close(truncated, torch.arange(8) * 32 / 255)


def test_jpeg_is_jpeg_noise_of_one_quality():
    x = random_images()
    assert torch.equal(Jpeg(quality=60)(x, draws(3)), JpegNoise(quality=(60, 60))(x, draws(3)))


def test_total_variance_keeps_half_the_pixels_and_ignores_the_rest():
    x = random_images(3, 64, 64)
    transform = TotalVarianceMinimisation(iterations=10)
    params = transform.sample(draws(3), x.shape)
    assert params["stream"].shape == (3, 5)
    kept = Stream(params["stream"]).bernoulli(0.5, (64, 64))
    assert abs(kept.float().mean() - 0.5) < 4 * 0.5 / kept.numel() ** 0.5
    other = torch.where(kept[:, None], x, 1 - x)
    assert torch.equal(transform.apply(x, params), transform.apply(other, params))


def test_total_variance_differs_between_queries():
    x = random_images()
    transform = TotalVarianceMinimisation(iterations=10)
    assert not torch.equal(transform(x, draws(3)), transform(x, draws(3, query=1)))


def test_quilting_takes_each_neighbour_equally_often():
    x = torch.full((400, 3, 16, 16), 0.5)
    transform = ImageQuilting(bank=torch.linspace(0, 1, 20).reshape(20, 1, 1, 1).expand(20, 3, 5, 5), neighbours=4)
    corner = transform(x, draws(400))[:, 0, 0, 0]
    values, counts = corner.unique(return_counts=True)
    assert len(values) == 4
    assert (counts - 100).abs().max() < 4.5 * (400 * 0.25 * 0.75) ** 0.5


def test_quilting_names_its_bank_in_comparisons():
    assert ImageQuilting(bank=BANK) == ImageQuilting(bank=BANK.clone())
    assert ImageQuilting(bank=BANK) != ImageQuilting(bank=BANK.flip(0))
    assert ImageQuilting(bank=BANK).digest in repr(ImageQuilting(bank=BANK))


def test_quilting_needs_a_bank():
    with pytest.raises(InputError, match="patch_bank"):
        ImageQuilting()(random_images(), draws(3))


def test_patch_bank_cuts_patches():
    x = random_images()
    bank = patch_bank(x, draws(3), 7)
    assert bank.shape == (21, 3, 5, 5)
    windows = x.unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 2, 3, 1, 4, 5)
    for number, patch in enumerate(bank):
        assert (windows[number // 7] == patch).flatten(2).all(-1).any()
    with pytest.raises(InputError, match="at least 40"):
        patch_bank(x, draws(3), 1, size=40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitDepthReduction(bits=9), "bit_depth_reduction: bits"),
        (lambda: BitDepthReduction(rounding="up"), "bit_depth_reduction: rounding"),
        (lambda: Jpeg(quality=0), "jpeg: quality"),
        (lambda: TotalVarianceMinimisation(keep=0.0), "total_variance_minimisation: keep"),
        (lambda: TotalVarianceMinimisation(weight=0.0), "total_variance_minimisation: weight"),
        (lambda: ImageQuilting(bank=BANK[:, :1]), "image_quilting: bank must be"),
        (lambda: ImageQuilting(bank=BANK * 255), "divide by 255"),
        (lambda: ImageQuilting(bank=BANK, neighbours=65), "image_quilting: neighbours"),
        (lambda: ImageQuilting(bank=BANK, overlap=3), "image_quilting: overlap"),
        (lambda: ImageQuilting(bank=BANK)(random_images(1, 4, 9), draws(1)), "image_quilting: image sides"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(InputError, match=message):
        make()
