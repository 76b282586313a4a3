"""Pointwise colour operations: derivatives, degenerate colours, agreement of the conversions."""

import pytest
import torch

from cannonade.kernels.pointwise import (
    clip,
    colour_matrix,
    hsv_from_rgb,
    rgb_from_hsv,
    shift_hsv,
    shift_lab,
    shift_xyz,
    shift_yuv,
)

SHIFTS = {shift_hsv: (0.02, 0.1, -0.05), shift_lab: (3.0, -1.5, 1.0), shift_xyz: (0.03, 0.01, -0.02)}
SHIFTS[shift_yuv] = (0.03, -0.01, 0.015)


def colours(*shape):
    """Colours away from the kinks: distinct channels, no clipping, on both sides of the linear feet."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.15
    return images + torch.tensor([0.6, 0.35, 0.15], dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("scale", [1.0, 0.04])
def test_gradient(operation, scale):
    shift = torch.tensor([SHIFTS[operation]] * 2, dtype=torch.float64)
    images = (colours(2, 3, 3, 4) * scale).requires_grad_()
    if scale < 1:
        shift = shift.abs() * scale
    assert torch.autograd.gradcheck(lambda x: operation(x, shift), images)


def test_gradient_of_hue_and_matrix():
    images = colours(2, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.stack(hsv_from_rgb(x)), images)
    matrix = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: colour_matrix(x, matrix), images)
    torch.testing.assert_close(colour_matrix(images, matrix), torch.einsum("nij,njhw->nihw", matrix, images))


@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
def test_curves_allow_torch_func_and_second_derivatives(operation):
    images, shift = colours(2, 3, 2, 2), torch.tensor([SHIFTS[operation]] * 2, dtype=torch.float64)
    gradient = torch.func.grad(lambda x: operation(x, shift).square().sum())(images)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(operation(leaf, shift).square().sum(), leaf, create_graph=True)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.grad(expected.sum(), leaf)[0].isfinite().all()
    rows = torch.func.vmap(lambda x, by: operation(x[None], by[None])[0])(images, shift)
    torch.testing.assert_close(rows, operation(images, shift))


@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
def test_no_shift_changes_nothing_but_white_in_xyz(operation):
    images = torch.rand(2, 3, 17, 31, generator=torch.Generator().manual_seed(6))
    if operation is shift_xyz:
        images *= 0.9  # the published clip cuts Z above 1
    torch.testing.assert_close(operation(images, torch.zeros(2, 3)), images, rtol=0, atol=1e-5)


def test_clip_passes_the_gradient_at_its_bounds():
    x = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1], requires_grad=True)
    assert torch.equal(clip(x), x.detach().clamp(0, 1))
    assert torch.autograd.grad(clip(x).sum(), x)[0].tolist() == [0, 1, 1, 1, 0]


def test_hsv_of_primary_and_grey_colours():
    table = torch.tensor(
        [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1.0]]
    )
    hue, saturation, value = hsv_from_rgb(table[:, :, None, None])
    expected = torch.tensor([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 0, 0, 0])
    torch.testing.assert_close(hue.flatten(), expected)
    assert saturation.flatten().tolist() == [1] * 6 + [0] * 3
    assert value.flatten().tolist() == [1] * 6 + [0.5, 0, 1]
    torch.testing.assert_close(rgb_from_hsv(hue, saturation, value)[:, :, 0, 0], table)
    torch.testing.assert_close(rgb_from_hsv(hue + 1, saturation, value)[:, :, 0, 0], table)


@pytest.mark.parametrize("grey", [0.0, 1e-9, 0.003, 0.04045, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
def test_gradient_is_bounded_on_greys(operation, grey, noise, sign):
    generator = torch.Generator().manual_seed(7)
    images = (grey + noise * torch.randn(2, 3, 5, 7, generator=generator)).clamp(0, 1).requires_grad_()
    out = operation(images, sign * torch.tensor([SHIFTS[operation]] * 2))
    assert ((out >= 0) & (out <= 1)).all()
    (gradient,) = torch.autograd.grad(out.sum(), images)
    assert gradient.abs().max() < 2e3


def test_expanded_and_strided_inputs_and_gradients():
    images = (
        torch.rand(1, 31, 17, 3, generator=torch.Generator().manual_seed(9)).permute(0, 3, 1, 2).expand(3, -1, -1, -1)
    )
    for operation, shift in SHIFTS.items():
        leaf, plain = images.clone().requires_grad_(), images.contiguous().requires_grad_()
        by = torch.tensor([shift]).expand(3, -1)
        out = operation(leaf, by)
        first = torch.autograd.grad(out.sum(), leaf, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(out.sum(), leaf)[0], first)
        torch.testing.assert_close(first, torch.autograd.grad(operation(plain, by.clone()).sum(), plain)[0])
