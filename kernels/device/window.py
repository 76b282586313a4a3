"""Means and medians over windows by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native

# A window is a row of half-widths, −1 for the rows of the table that it does not have (kernels/native/window.h).


@torch.library.custom_op("cannonade::window_mean", mutates_args=())
def window_mean(planes: Tensor, windows: Tensor) -> Tensor:
    """Means over windows: planes [P, H, W] float32, windows [P, rows] int64."""
    planes = planes.contiguous()
    out = torch.empty_like(planes)
    native.run("window_mean", out, planes, windows, *planes.shape, windows.shape[1])
    return out


@torch.library.custom_op("cannonade::window_mean_adjoint", mutates_args=())
def _mean_adjoint(grad: Tensor, windows: Tensor) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    native.run("window_mean_adjoint", out, grad, windows, *grad.shape, windows.shape[1])
    return out


@torch.library.custom_op("cannonade::window_bilateral", mutates_args=())
def window_bilateral(planes: Tensor, bounds: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the members, and their numbers: planes [P, H, W] and bounds [P, 2] float32, windows [P, rows] int64."""
    planes, bounds = planes.contiguous(), bounds.contiguous()
    out, counts = torch.empty_like(planes), torch.empty_like(planes)
    native.run("window_bilateral", out, counts, planes, bounds, windows, *planes.shape, windows.shape[1])
    return out, counts


@torch.library.custom_op("cannonade::window_bilateral_adjoint", mutates_args=())
def _bilateral_adjoint(grad: Tensor, counts: Tensor, planes: Tensor, bounds: Tensor, windows: Tensor) -> Tensor:
    grad, planes, bounds = grad.contiguous(), planes.contiguous(), bounds.contiguous()
    out = torch.empty_like(planes)
    native.run("window_bilateral_adjoint", out, grad, counts, planes, bounds, windows, *planes.shape, windows.shape[1])
    return out


@torch.library.custom_op("cannonade::window_median_place", mutates_args=())
def window_median_place(planes: Tensor, windows: Tensor) -> Tensor:
    """The number in its plane of each window's upper median: [P, H, W] float32 to int32."""
    planes = planes.contiguous()
    out = torch.empty_like(planes, dtype=torch.int32)
    native.run("window_median_place", out, planes, windows, *planes.shape, windows.shape[1])
    return out


@window_mean.register_fake
def _(planes: Tensor, windows: Tensor) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


@_mean_adjoint.register_fake
def _(grad: Tensor, windows: Tensor) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@window_bilateral.register_fake
def _(planes: Tensor, bounds: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(planes, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out)


@_bilateral_adjoint.register_fake
def _(grad: Tensor, counts: Tensor, planes: Tensor, bounds: Tensor, windows: Tensor) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


@window_median_place.register_fake
def _(planes: Tensor, windows: Tensor) -> Tensor:
    return torch.empty_like(planes, dtype=torch.int32, memory_format=torch.contiguous_format)


def _keep_windows(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _mean_adjoint(grad, *ctx.saved_tensors), None


def _keep_members(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs)


def _bilateral_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    return _bilateral_adjoint(grad, *ctx.saved_tensors), None, None


window_mean.register_autograd(_mean_backward, setup_context=_keep_windows)
window_bilateral.register_autograd(_bilateral_backward, setup_context=_keep_members)
