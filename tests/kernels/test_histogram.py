"""Equalisation, stretching and CLAHE: derivatives, bin edges, scikit-image's redistribution, awkward sizes."""

import numpy as np
import pytest
import torch
from skimage import exposure
from skimage.exposure._adapthist import clip_histogram

from cannonade.kernels import histogram
from cannonade.kernels.histogram import clahe, equalise, replace_value, stretch
from cannonade.kernels.pointwise import hsv_from_rgb, rgb_from_hsv


def planes(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_equalise_gradient_with_constant_counts(monkeypatch):
    x, bins = planes(2, 6, 7).requires_grad_(), torch.tensor([5, 9])
    shares = histogram._distribution(x.detach().flatten(1), bins[:, None])
    monkeypatch.setattr(histogram, "_distribution", lambda flat, bins: shares)
    assert torch.autograd.gradcheck(lambda x: equalise(x, bins), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [2, 51, 85, 255])
def test_equalise_where_values_lie_on_bin_edges(bins, dtype):
    x = torch.arange(256, dtype=dtype).repeat(3).view(1, 24, 32) / 255
    expected = exposure.equalize_hist(x[0].double().numpy(), nbins=bins)
    np.testing.assert_allclose(equalise(x, torch.tensor([bins]))[0], expected, atol=1e-6)


def test_stretch_gradient():
    x = planes(2, 6, 7, seed=1).requires_grad_()
    low, high = torch.tensor([0.04, 0.11]), torch.tensor([0.93, 0.97])
    assert torch.autograd.gradcheck(lambda x: stretch(x, low, high), x)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.5), (0.5, 0.8)])
def test_stretch_takes_any_percentiles(low, high):
    x = planes(1, 17, 31, seed=2)
    ends = np.percentile(x.numpy(), [100 * low, 100 * high])
    expected = exposure.rescale_intensity(x.numpy(), in_range=tuple(ends))
    shares = (torch.tensor([share], dtype=torch.float64) for share in (low, high))
    np.testing.assert_allclose(stretch(x, *shares), expected, atol=1e-9)


def test_stretch_where_the_percentiles_coincide():
    x = torch.full((1, 20, 20), 0.25)
    x[0, 0, 0], x[0, 5, 5] = 0.0, 1.0
    x.requires_grad_()
    out = stretch(x, torch.tensor([0.02]), torch.tensor([0.97]))
    assert torch.equal(out, torch.full_like(x, 0.25))
    gradient = torch.autograd.grad(out.sum(), x)[0]
    assert gradient.nonzero().tolist() == [[0, 0, 1]]  # ties to the first in raster order


def test_clip_is_that_of_scikit_image():
    generator = np.random.default_rng(0)
    counts = (generator.gamma(0.08, 60, (3000, 256))).astype(np.int32)
    counts[:5] = 0
    counts[:5, 17] = 900  # one bin holds everything
    limit = generator.integers(1, 30, 3000).astype(np.int32)
    expected = np.stack([clip_histogram(row.copy(), int(own)) for row, own in zip(counts, limit, strict=True)])
    assert np.array_equal(histogram._clip(torch.from_numpy(counts.copy()), torch.from_numpy(limit)), expected)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (61, 24)])
@pytest.mark.parametrize("kernel", [(2, 3), (3, 2), (5, 5), (8, 4), (1, 7)])
def test_clahe_agrees_with_scikit_image(height, width, kernel):
    x = planes(3, height, width, seed=3)
    out = clahe(x, *(torch.tensor([side] * 3) for side in kernel), torch.tensor([0.01, 0.04, 0.3]), with_slope=False)
    for row, limit in enumerate([0.01, 0.04, 0.3]):
        expected = exposure.equalize_adapthist(x[row].numpy(), kernel_size=kernel, clip_limit=float(np.float32(limit)))
        assert np.abs(out.planes[row].numpy() - expected).max() < 2.5 / 16383
    assert out.slope is None


def test_clahe_slope_is_that_of_tables_linear_within_a_bin():
    x = planes(2, 17, 24, seed=4)
    rows, columns, limit = torch.tensor([4, 6]), torch.tensor([5, 3]), torch.tensor([0.1, 0.2])
    grey16 = (x * 65535).round()
    low, high = grey16.amin((1, 2), keepdim=True), grey16.amax((1, 2), keepdim=True)
    bins = ((grey16 - low) / (high - low) * 16383).round().long() // 65
    tables = histogram._tables(bins, rows, columns, limit)
    looked_up = histogram._between_tiles(bins, tables, rows, columns)
    before = torch.cat((torch.zeros_like(tables[..., :1]), tables[..., :-1]), dim=2)
    rise = looked_up - histogram._between_tiles(bins, before, rows, columns)  # over one bin
    bin_width = 65 / 16383 * (high - low) / 65535
    looked_up = looked_up.floor()
    contrast = looked_up.amax((1, 2), keepdim=True) - looked_up.amin((1, 2), keepdim=True)
    slope = clahe(x, rows, columns, limit).slope
    torch.testing.assert_close(slope, rise / contrast / bin_width)
    assert (slope >= 0).all()


def test_clahe_is_the_same_in_any_chunking(monkeypatch):
    x = planes(5, 20, 33, seed=5, dtype=torch.float32)
    rows, columns = torch.tensor([2, 3, 4, 5, 6]), torch.tensor([6, 5, 4, 3, 2])
    limit = torch.linspace(0.01, 0.3, 5)
    whole = clahe(x, rows, columns, limit)
    monkeypatch.setattr(histogram, "_CHUNK", 1)
    for one, other in zip(whole, clahe(x, rows, columns, limit), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_constant_planes_stay_and_pass_the_gradient(level):
    x = torch.full((1, 16, 19), level, requires_grad=True)
    one = torch.tensor([3])
    out = clahe(x.detach(), one, one, torch.tensor([0.02]))
    assert torch.equal(out.planes, x)
    assert torch.equal(out.slope, torch.ones_like(x))
    equal = equalise(x, torch.tensor([40]))
    assert torch.equal(equal, x)
    assert torch.equal(torch.autograd.grad(equal.sum(), x)[0], torch.ones_like(x))


@pytest.mark.parametrize("spread", [1e-9, 1e-7, 1e-4])
def test_nearly_constant_planes_stay_finite(spread):
    x = (0.5 + planes(2, 16, 19, seed=6, dtype=torch.float32) * spread).requires_grad_()
    low, high = torch.tensor([0.02, 0.02]), torch.tensor([0.98, 0.98])
    for out in (equalise(x, torch.tensor([40, 256])), stretch(x, low, high)):
        assert out.isfinite().all()
        assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


def test_replacing_the_value_is_what_hsv_does():
    images = torch.rand(2, 3, 17, 31, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    images[:, :, :3] = 0
    images[:, :, 3:5] = 0.4
    hue, saturation, value = hsv_from_rgb(images)
    new, slope = value.sqrt(), torch.ones_like(value)
    torch.testing.assert_close(replace_value(images, new, slope), rgb_from_hsv(hue, saturation, new))
    black = torch.zeros(1, 3, 2, 2)
    grey = torch.full((1, 2, 2), 0.3)
    assert torch.equal(replace_value(black, grey, grey), torch.full_like(black, 0.3))
