"""Averages over disks, each plane with one of its own: the plain mean, and the mean of what is near the centre's value."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.window import (
    bilateral_adjoint_into,
    bilateral_into,
    mean_adjoint_into,
    mean_into,
    window_bilateral,
    window_mean,
)
from cannonade.kernels.sheets import (
    Sheet,
    Window,
    between_extremes,
    by_key,
    disk,
    inside_counts,
    shifts,
)

_OUTSIDE = 1e30  # above every upper bound, and finite because it is multiplied by a zero


def disk_mean(images: Tensor, radius: Tensor, backend: Backend = "auto") -> Tensor:
    """Mean of the pixels of the disk dx² + dy² ≤ r² that lie inside the image; backward is the exact adjoint.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.
        backend: "auto", "triton", "native" or "torch"; of the same bits in float32.

    Returns:
        [N, C, H, W].
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        means: Tensor = window_mean(images, radius, chosen)
    else:
        means = _DiskMean.apply(images.flatten(0, 1), radius.flatten())
    return means.view(images.shape)


def bilateral_mean(images: Tensor, radius: Tensor, below: Tensor, above: Tensor, backend: Backend = "auto") -> Tensor:
    """Mean of the disk's pixels inside the image whose value v has g − below < v < g + above, g the centre's value.

    Backward takes the membership as constant, and finds it again instead of keeping it.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.
        below, above: [N, C] positive.
        backend: "auto", "triton", "native" or "torch"; of the same bits in float32.

    Returns:
        [N, C, H, W].
    """
    bounds = torch.stack((below, above), dim=-1)
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        means: Tensor = window_bilateral(images, radius, bounds.float(), chosen)[0]
    else:
        means = _BilateralMean.apply(images.flatten(0, 1), radius.flatten(), bounds.flatten(0, 1).to(images.dtype))
    return means.view(images.shape)


def disk_mean_step(radius: Tensor) -> Step:
    """`disk_mean` by launchers; radius [M, C], a row for each image of a launch."""

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        mean_into(out, images, radius)
        return ()

    def backward(to: Rows, grad: Rows, images: Rows) -> None:
        mean_adjoint_into(to, grad, radius)

    return Step(forward, backward)


def bilateral_mean_step(radius: Tensor, below: Tensor, above: Tensor) -> Step:
    """`bilateral_mean` by launchers, which keep the number of members of every mean."""
    bounds = torch.stack((below, above), dim=-1).float()

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        shape = (len(images), *images.buffer.shape[1:])
        counts = images.buffer.new_empty(shape, dtype=torch.float32)
        bilateral_into(out, images, radius, bounds, counts)
        return (counts,)

    def backward(to: Rows, grad: Rows, images: Rows, counts: Tensor) -> None:
        bilateral_adjoint_into(to, grad, images, radius, bounds, counts)

    return Step(forward, backward)


class _DiskMean(torch.autograd.Function):
    """Planes [P, H, W], radius [P]."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, radius: Tensor) -> Tensor:
        ctx.save_for_backward(radius)

        def mean(key: int, part: Tensor, _: Tensor) -> Tensor:
            counts = inside_counts(disk(key), part)
            return _disk_sum(part, disk(key)) / counts.to(part.dtype)

        return between_extremes(by_key(radius, planes, mean), planes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        def adjoint(key: int, part: Tensor, _: Tensor) -> Tensor:
            counts = inside_counts(disk(key), part)
            return _disk_sum(part / counts.to(part.dtype), disk(key))

        return by_key(ctx.saved_tensors[0], grads[0], adjoint), None


def _disk_sum(planes: Tensor, window: Window) -> Tensor:
    """Sum over the window's pixels inside the image: [G, H, W]."""
    sheet = Sheet.lay(planes, window, 0.0)
    total = planes.new_zeros(sheet.length)
    for block in sheet.blocks():
        for shift in shifts(window):
            total[block].add_(sheet.read(block, shift))
    return sheet.planes(total)


class _BilateralMean(torch.autograd.Function):
    """Planes [P, H, W], radius [P], bounds [P, 2] (below, above)."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, radius: Tensor, bounds: Tensor) -> Tensor:
        counts = torch.empty_like(planes, memory_format=torch.contiguous_format)

        def mean(key: int, part: Tensor, rows: Tensor) -> Tensor:
            total, counts[rows] = _bilateral_sum(part, bounds[rows], disk(key))
            return total / counts[rows]

        out = between_extremes(by_key(radius, planes, mean), planes)
        ctx.save_for_backward(planes, radius, bounds, counts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes, radius, bounds, counts = ctx.saved_tensors

        def adjoint(key: int, part: Tensor, rows: Tensor) -> Tensor:
            return _bilateral_adjoint(part / counts[rows], planes[rows], bounds[rows], disk(key))

        return by_key(radius, grads[0], adjoint), None, None


def _bound_sheets(planes: Tensor, bounds: Tensor, window: Window) -> tuple[Sheet, Sheet]:
    """Each pixel's least and greatest value of a member."""
    below, above = bounds[:, :, None, None].unbind(1)
    return Sheet.lay(planes - below, window, 0.0), Sheet.lay(planes + above, window, 0.0)


def _bilateral_sum(planes: Tensor, bounds: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Sum and number of each window's members: v is one if clamping it to its centre's bounds leaves it as it is."""
    values = Sheet.lay(planes, window, _OUTSIDE)
    lower, upper = _bound_sheets(planes, bounds, window)
    total, number = (planes.new_zeros(values.length) for _ in range(2))
    for block in values.blocks():
        low, high = lower.read(block), upper.read(block)
        member = torch.empty_like(low)
        for shift in shifts(window):
            value = values.read(block, shift)
            torch.clamp(value, low, high, out=member)
            torch.eq(member, value, out=member)
            number[block].add_(member)
            total[block].addcmul_(value, member)
    return values.planes(total), values.planes(number)


def _bilateral_adjoint(shares: Tensor, planes: Tensor, bounds: Tensor, window: Window) -> Tensor:
    """Each pixel's sum of the shares (gradient over number) of the windows that it is a member of."""
    values, weights = Sheet.lay(planes, window, _OUTSIDE), Sheet.lay(shares, window, 0.0)
    lower, upper = _bound_sheets(planes, bounds, window)
    total = planes.new_zeros(values.length)
    for block in values.blocks():
        value = values.read(block)
        member = torch.empty_like(value)
        for shift in shifts(window):
            torch.clamp(value, lower.read(block, shift), upper.read(block, shift), out=member)
            torch.eq(member, value, out=member)
            total[block].addcmul_(member, weights.read(block, shift))
    return values.planes(total)
