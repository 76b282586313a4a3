"""Pointwise colour operations on Triton, one at a time and in lists; native code's registration."""

from functools import partial

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.kernels.device.pointwise import (
    Operation,
    _adjoint,
    pointwise,
    pointwise_adjoint_into,
    pointwise_into,
)
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.pointwise import (
    clip,
    colour_matrix,
    mix_channels,
    pointwise_step,
    round_colours,
    shift_hsv,
    shift_lab,
    shift_xyz,
    shift_yuv,
)

SHIFTS = {shift_hsv: 0.2, shift_lab: 4.0, shift_xyz: 0.05, shift_yuv: 0.05}
TOLERANCES = {shift_hsv: (1e-6, 5e-6), shift_lab: (1e-5, 2e-4), shift_xyz: (5e-6, 2e-4), shift_yuv: (1e-6, 2e-6)}
HSV, LAB, XYZ, YUV, MATRIX, MIX, ROUND, CLIP = Operation
# A rounding follows only what has the same bits everywhere: elsewhere it makes jumps of differences in rounding.
LISTS = {
    "mixed": [[ROUND, MIX, LAB, YUV], [XYZ, -1, HSV, MATRIX], [CLIP, MATRIX, LAB, -1]],
    "short": [[MIX, -1], [ROUND, HSV], [-1, -1]],
    "long": [[CLIP, ROUND, HSV, XYZ, YUV, MIX], [-1, MATRIX, -1, LAB, CLIP, MATRIX], [HSV, YUV, MATRIX, LAB, MIX, XYZ]],
}


def colours(device, *shape, seed=0):
    """Random colours, a third of them with ties and at the ends of the range."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    images[:, :, : shape[2] // 3] = (images[:, :, : shape[2] // 3] * 8).round() / 8
    return images.to(device)


def shifts(device, count, end):
    return (end * (2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) - 1)).to(device)


def means(device, count):
    """Matrices with rows of weights; all rows of the first are the same."""
    weights = torch.rand(count, 3, 3, generator=torch.Generator().manual_seed(count))
    weights[0] = weights[0, :1]
    return (weights / weights.sum(2, keepdim=True)).to(device)


def scales(device, count):
    return torch.randint(8, 201, (count, 3), generator=torch.Generator().manual_seed(count)).to(device)


def parameters(device, operations):
    """[M, L, 9] for lists of operations."""
    count, length = operations.shape
    table = torch.zeros(count, length, 9, device=device)
    makers = {HSV: 0.2, LAB: 4.0, XYZ: 0.05, YUV: 0.05}
    for step in range(length):
        for operation in set(operations[:, step].tolist()):
            if operation in makers:
                made = shifts(device, count, makers[operation]).roll(step, 0)
            elif operation == ROUND:
                made = scales(device, count).float()
            else:
                made = means(device, count).roll(step, 0).flatten(1) * (1.4 if operation == MATRIX else 1)
            rows = operations[:, step] == operation
            table[rows, step, : made.shape[1]] = made[rows]
    return table


def by_list(images, operations, table, clamp):
    """The reference: each image on its own, one operation after the other."""
    rows = []
    for image, steps, numbers in zip(images.split(1), operations.tolist(), table, strict=True):
        for operation, own in zip(steps, numbers, strict=True):
            if operation >= 0:
                image = one_by_torch(image, operation, own[None])
                image = clip(image) if clamp else image
        rows.append(image)
    return torch.cat(rows)


def one_by_torch(image, operation, own):
    if operation == CLIP:
        return clip(image)
    if operation == ROUND:
        value = round_colours(image, own[:, :3], "torch")
        return image + (value - image).detach() if image.requires_grad else value
    if operation in (MATRIX, MIX):
        return {MATRIX: colour_matrix, MIX: mix_channels}[operation](image, own.view(-1, 3, 3), "torch")
    return {HSV: shift_hsv, LAB: shift_lab, XYZ: shift_xyz, YUV: shift_yuv}[operation](image, own[:, :3], "torch")


class ByList(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, step):
        images = images.contiguous()
        ctx.save_for_backward(images)
        ctx.step = step
        out = torch.empty_like(images)
        step.forward(every(out), every(images))
        return out

    @staticmethod
    def backward(ctx, grad):
        (images,) = ctx.saved_tensors
        out = torch.empty_like(images)
        ctx.step.backward(every(out), every(grad), every(images))
        return out, None


@pytest.mark.interpreter
@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("shape", [(3, 3, 17, 31), (1, 3, 2, 5)], ids=str)
def test_shifts(device, operation, shape):
    by = shifts(device, shape[0], SHIFTS[operation])
    value, gradient = TOLERANCES[operation]
    images = colours(device, *shape)
    check_kernel(lambda x, backend: operation(x, by, backend), images, value, gradient_tolerance=gradient)


@pytest.mark.interpreter
@pytest.mark.parametrize("operation", [colour_matrix, mix_channels], ids=lambda operation: operation.__name__)
def test_matrices(device, operation):
    matrix = means(device, 3) * (1 if operation is mix_channels else 1.4)
    check_kernel(lambda x, backend: operation(x, matrix, backend), colours(device, 3, 3, 17, 31), 1e-6)


@pytest.mark.interpreter
def test_rounding_has_the_same_bits(device):
    scale = scales(device, 3)
    images = colours(device, 3, 3, 17, 31)
    images[..., 0] = ((images[..., 0] * scale[..., None]).floor() + 0.5) / scale[..., None]  # halves, or next to them
    images[..., 1] -= 1.5
    images[..., 2] *= 1e7
    assert torch.equal(round_colours(images, scale, "triton"), round_colours(images, scale, "torch"))
    check_kernel(lambda x, backend: round_colours(x, scale, backend), images[..., 3:], 0.0, differentiable=False)


@pytest.mark.interpreter
@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
def test_greys_and_ends_of_the_range(device, operation):
    """Chroma and value at the noise of float32, and black, white and primary colours, whose channels tie."""
    generator = torch.Generator().manual_seed(2)
    grey = torch.rand(1, 1, 4, 20, generator=generator).expand(1, 3, 4, 20)
    noisy = (grey + 1e-7 * torch.randn(1, 3, 4, 20, generator=generator)).clamp(0, 1)
    corners = torch.rand(1, 3, 4, 20, generator=generator).round()
    dark = torch.rand(1, 3, 4, 20, generator=generator) * 0.01
    images = torch.cat((grey, noisy, corners, dark), 3).to(device)
    value, gradient = TOLERANCES[operation]
    up = shifts(device, 1, SHIFTS[operation]).abs()
    for by in (up, -up):
        check = partial(check_kernel, gradient_tolerance=gradient, storage=())
        check(lambda x, backend, by=by: operation(x, by, backend), images, value)


@pytest.mark.interpreter
@pytest.mark.parametrize("operation", SHIFTS, ids=lambda operation: operation.__name__)
def test_large_shifts(device, operation):
    """Every clip clips, that of Z after a shift in LAB among them."""
    by = shifts(device, 3, 20 * SHIFTS[operation])
    value, gradient = TOLERANCES[operation]
    images = colours(device, 3, 3, 17, 31)
    check = partial(check_kernel, gradient_tolerance=5 * gradient, storage=())
    check(lambda x, backend: operation(x, by, backend), images, value)


@pytest.mark.interpreter
def test_hues_between_sextants(device):
    """Where the hue does not move, a channel that is exactly the largest or the least has the slope of a clip's bound."""
    images = colours(device, 3, 3, 17, 31).round()
    by = torch.tensor([[0.0, -0.1, -0.2]], device=device).expand(3, 3)
    check_kernel(lambda x, backend: shift_hsv(x, by, backend), images, 1e-6, gradient_tolerance=5e-6, storage=())


@pytest.mark.interpreter
@pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "not clamped"])
@pytest.mark.parametrize("name", LISTS)
def test_lists(device, name, clamp):
    operations = torch.tensor(LISTS[name], device=device)
    table = parameters(device, operations)

    def function(images, backend):
        if backend == "torch":
            return by_list(images, operations, table, clamp)
        return ByList.apply(images, pointwise_step(operations, table, clamp))

    images = colours(device, 3, 3, 17, 31)
    if clamp:  # the first operation meets colours out of range
        images = 1.5 * images - 0.25
    check_kernel(function, images, 2e-5, gradient_tolerance=2e-3, storage=())


@pytest.mark.interpreter
def test_rows_of_a_buffer(device):
    operations = torch.tensor([[HSV, MIX], [ROUND, -1], [YUV, LAB]], device=device)
    settings = operations, parameters(device, operations), True
    check_rows(lambda out, images: pointwise_into(out, images, *settings), 3, (3, 17, 31), device)
    grad = Rows(colours(device, 4, 3, 17, 31, seed=1), torch.tensor([2, 0, 2], device=device))
    check_rows(lambda to, images: pointwise_adjoint_into(to, grad, images, *settings), 3, (3, 17, 31), device)


@pytest.mark.interpreter
def test_images_are_written_over_themselves(device):
    operations = torch.tensor([[HSV, MIX], [YUV, LAB]], device=device)
    settings = operations, parameters(device, operations), True
    images, grad = every(colours(device, 2, 3, 17, 31)), every(colours(device, 2, 3, 17, 31, seed=1))
    out = every(torch.empty_like(images.buffer))
    pointwise_adjoint_into(out, grad, images, *settings)
    pointwise_adjoint_into(grad, grad, images, *settings)
    assert torch.equal(grad.buffer, out.buffer)
    pointwise_into(out, images, *settings)
    pointwise_into(images, images, *settings)
    assert torch.equal(images.buffer, out.buffer)


@pytest.mark.interpreter
def test_nothing_to_do(device):
    for shape in ((0, 3, 17, 31), (2, 3, 0, 5)):
        images = torch.rand(shape, device=device, requires_grad=True)
        out = shift_lab(images, torch.zeros(shape[0], 3, device=device), "triton")
        assert out.shape == torch.autograd.grad(out.sum(), images)[0].shape == shape


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize("operation", [HSV, LAB, XYZ, YUV], ids=lambda operation: operation.name)
def test_registration(operation):
    images, grad = colours("cpu", 2, 3, 5, 7), colours("cpu", 2, 3, 5, 7, seed=1)
    settings = shifts("cpu", 2, 0.05), int(operation), "native"
    torch.library.opcheck(pointwise, (images.requires_grad_(), *settings))
    torch.library.opcheck(_adjoint, (grad, images.detach(), *settings))
