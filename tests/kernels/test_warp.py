"""Warps: gradients, borders, and independence of the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cannonade.kernels.warp import Box, resize_crop, resize_pad, rotate, swirl


def integers(*values):
    return torch.tensor(values)


def box(images):
    height, width = images.shape[-2:]
    return Box(integers(1, 0), integers(2, 3), integers(height - 4, height - 1), integers(width - 3, width - 5))


WARPS = {
    "rotate": lambda x: rotate(x, torch.tensor([33.0, -71.0])),
    "swirl": lambda x: swirl(x, torch.tensor([1.7, 0.4]), integers(20, 9), integers(4, 17), integers(9, 1)),
    "zoom": lambda x: resize_crop(x, box(x), "mirror"),
    "crop": lambda x: resize_crop(x, box(x), "edge"),
    "pad_nearest": lambda x: resize_pad(x, integers(19, 24), integers(5, 0), integers(2, 0), 24, "nearest", 0.5),
    "pad_bilinear": lambda x: resize_pad(x, integers(19, 24), integers(5, 0), integers(2, 0), 24, "bilinear"),
}


@pytest.fixture(params=WARPS.values(), ids=WARPS.keys())
def warp(request):
    return request.param


def images(height=17, width=31, dtype=torch.float64):
    return torch.rand(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_gradient(warp):
    torch.autograd.gradcheck(warp, images(9, 12).requires_grad_(), fast_mode=True)


def test_second_backward_equals_first_on_expanded_views(warp):
    base = torch.rand(1, 3, 31, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    out = warp(base.mT.expand(2, -1, -1, -1))
    first, second = (torch.autograd.grad(out.sum(), base, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(out, warp(base.mT.expand(2, -1, -1, -1).contiguous()))


def test_is_linear(warp):
    x, y = images(), images().flip(0, 3)
    black = warp(torch.zeros_like(x))
    torch.testing.assert_close(warp(x + y) + black, warp(x) + warp(y), rtol=0, atol=1e-12)


def test_keeps_range(warp):
    out = warp(images(dtype=torch.float32).round())
    assert out.min() >= 0
    assert out.max() <= 1


def test_float32_agrees_with_float64(warp):
    torch.testing.assert_close(warp(images().float().double()).float(), warp(images().float()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_move_whole_pixels(quarter):
    x = images(21, 21)[:1]
    out = rotate(x, torch.tensor([90.0 * quarter]))
    torch.testing.assert_close(out, x.rot90(quarter, dims=(2, 3)), rtol=0, atol=1e-12)


def test_no_turn_is_the_identity():
    x = images()
    torch.testing.assert_close(rotate(x, torch.zeros(2)), x, rtol=0, atol=1e-13)
    still = swirl(x, torch.zeros(2), integers(9, 9), integers(3, 3), integers(3, 3))
    torch.testing.assert_close(still, x, rtol=0, atol=1e-13)


def test_zeros_come_in_from_outside():
    out = rotate(torch.ones(1, 3, 16, 48), torch.tensor([90.0]))
    assert out[..., :15].max() == 0  # the strip stands upright in the middle
    assert out[..., 24].min() > 0.999


def test_edge_resize_is_pytorchs_interpolation():
    x = images()
    whole = Box(integers(3, 3), integers(4, 4), integers(9, 9), integers(20, 20))
    expected = F.interpolate(x[:, :, 3:12, 4:24], size=(17, 31), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_crop(x, whole, "edge"), expected, rtol=0, atol=1e-12)


def test_one_pixel_box_is_constant():
    x = images()
    one = Box(integers(3, 16), integers(30, 0), integers(1, 1), integers(1, 1))
    expected = torch.stack((x[0, :, 3, 30], x[1, :, 16, 0]))[:, :, None, None].expand_as(x)
    torch.testing.assert_close(resize_crop(x, one, "mirror"), expected, rtol=0, atol=1e-12)


def test_pad_places_the_image():
    x = images(16, 16)
    out = resize_pad(x, integers(16, 16), integers(3, 0), integers(0, 7), 23, "nearest", fill=0.5)
    expected = np.full((2, 3, 23, 23), 0.5)
    expected[0, :, 3:19, :16] = x[0]
    expected[1, :, :16, 7:] = x[1]
    assert np.array_equal(out.numpy(), expected)
