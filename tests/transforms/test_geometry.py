"""Rotation, resize-and-pad, crop-and-rescale: the laws of their parameters, sizes, presets and oracles."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.transform import resize

from cannonade.bench.oracles.geometry import random_resize_pad
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.geometry import RandomCropRescale, RandomResizePad, Rotation

FALSE_ALARM = 1e-4


def params(transform, count=30_000, height=224, width=224):
    ids = torch.arange(count)
    draws = Draws(seed=6, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, height, width)))


def noise(count=2, height=17, width=31, dtype=torch.float64):
    return torch.rand(count, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("degrees", [90.0, 45.0])
def test_angles_are_uniform(degrees):
    drawn = params(Rotation(degrees=degrees))["degrees"].double()
    assert stats.kstest(drawn, stats.uniform(-degrees, 2 * degrees).cdf).pvalue > FALSE_ALARM


def test_sides_and_places_are_uniform():
    drawn = params(RandomResizePad(low=20, high=24, pad=24))
    sides = drawn["side"].bincount()
    assert len(sides) == 24
    assert stats.chisquare(sides[20:]).pvalue > FALSE_ALARM
    for place in (drawn["top"], drawn["left"]):
        counts = place[drawn["side"] == 21].bincount()
        assert len(counts) == 4
        assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_images_that_are_not_padded_fill_the_square():
    drawn = params(RandomResizePad(p=0.5))
    filling = drawn["side"] == 256
    assert stats.binomtest(int(filling.sum()), 30_000, 0.5).pvalue > FALSE_ALARM
    assert drawn["top"][filling].max() == 0


def test_published_resize_pad():
    transform = RandomResizePad.as_published()
    drawn = params(transform, 10_000, 299, 299)
    assert (drawn["side"].min(), drawn["side"].max()) == (299, 330)
    out = transform.apply(noise(1, 299, 299), {name: value[:1] for name, value in drawn.items()})
    assert out.shape == (1, 3, 331, 331)
    assert (out == 0.5).double().mean() > 1 - (330 / 331) ** 2 - 1e-9


@pytest.mark.parametrize("noise_std", [0.0, 0.05])
def test_nearest_resize_pad_agrees_with_oracle(photos, noise_std):
    images = (photos[:, :, :224, :224] + noise_std * noise(8, 224, 224, torch.float32)).clamp(0, 1)
    drawn = params(RandomResizePad(), 8)
    out = RandomResizePad().apply(images, drawn)
    for row, image in enumerate(images):
        own = {name: value[row].numpy() for name, value in drawn.items()}
        expected = random_resize_pad.function(image.permute(1, 2, 0).double().numpy(), own)
        assert np.array_equal(out[row].permute(1, 2, 0).numpy(), expected)


def test_bilinear_resize_pad_agrees_with_oracle(photos):
    transform, photos = RandomResizePad(interpolation="bilinear", fill=0.5), photos[:, :, :224, :224]
    drawn = params(transform, 8)
    out = transform.apply(photos, drawn).permute(0, 2, 3, 1).double().numpy()
    for row, image in enumerate(photos):
        side, top, left = (int(drawn[name][row]) for name in ("side", "top", "left"))
        expected = np.full((256, 256, 3), 0.5)
        inner = resize(image.permute(1, 2, 0).double().numpy(), (side, side), order=1, mode="edge")
        expected[top : top + side, left : left + side] = inner
        assert np.abs(out[row] - expected).mean() < 1e-5


def test_crops_are_uniform():
    drawn = params(RandomCropRescale())
    assert drawn["height"].unique().tolist() == [90]
    for place in (drawn["top"], drawn["left"]):
        counts = place.bincount()
        assert len(counts) == 135
        assert stats.chisquare(counts).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("transform", "height", "width"), [(RandomCropRescale(), 13, 180), (RandomCropRescale(reference_size=None), 90, 90)]
)
def test_crop_scales_with_each_side(transform, height, width):
    drawn = params(transform, 100, 32, 448) if transform.reference_size else params(transform, 100)
    assert drawn["height"].unique().tolist() == [height]
    assert drawn["width"].unique().tolist() == [width]


@pytest.mark.parametrize(
    "transform",
    [Rotation(), RandomResizePad(), RandomResizePad(interpolation="bilinear"), RandomCropRescale()],
    ids=repr,
)
class TestEach:
    def test_degenerate_images(self, transform):
        images = torch.stack([torch.full((3, 17, 31), level) for level in (0.0, 0.5, 1.0)]).requires_grad_()
        out = transform.apply(images, params(transform, 3, 17, 31))
        assert torch.autograd.grad(out.square().sum(), images)[0].isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1

    def test_batch_equals_single_images(self, transform):
        drawn, images = params(transform, 3, 17, 31), noise(3, dtype=torch.float32)
        out = transform.apply(images, drawn)
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in drawn.items()}
            assert torch.equal(transform.apply(images[row : row + 1], one), out[row : row + 1])

    def test_empty_batch(self, transform):
        out = transform.apply(noise(0), params(transform, 0, 17, 31))
        assert out.shape[:2] == (0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation(degrees=200), r"Rotation: degrees must be in \[0, 180\], got 200"),
        (lambda: RandomResizePad(low=256), r"RandomResizePad: low, high and pad must satisfy .* got low=256"),
        (lambda: RandomResizePad(interpolation="cubic"), "RandomResizePad: interpolation must be 'nearest' or"),
        (lambda: RandomResizePad(fill=2), "RandomResizePad: fill must be a pixel value"),
        (lambda: RandomCropRescale(crop=300), "RandomCropRescale: crop must be at least 1 and at most reference_size"),
        (lambda: params(RandomCropRescale(reference_size=None), 1, 64, 64), "images of 64x64 pixels are too small"),
    ],
)
def test_rejects_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
