"""Wavelet shrinkage by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::wavelet_shrink", mutates_args=())
def wavelet_shrink(planes: Tensor, soft: Tensor, low: list[float], depth: int, shifts: int) -> tuple[Tensor, Tensor]:
    """`bayes_shrink` of planes [M, H, W] float64, and which coefficients were kept; soft [M] bool, low the filter."""
    planes = planes.contiguous()
    out, masks = _outputs(planes, len(low), depth, shifts)
    native.run(
        "wavelet_shrink", out, masks, planes, soft.long(), _filter(low), len(low), depth, shifts, masks.shape[2],
        *planes.shape,
    )  # fmt: skip
    return out, masks


@torch.library.custom_op("cannonade::wavelet_shrink_adjoint", mutates_args=())
def _adjoint(grad: Tensor, masks: Tensor, low: list[float], depth: int, shifts: int) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    native.run(
        "wavelet_shrink_adjoint", out, masks, grad, _filter(low), len(low), depth, shifts, masks.shape[2], *grad.shape
    )
    return out


def _filter(low: list[float]) -> Tensor:
    return torch.tensor(low, dtype=torch.float64)


def _outputs(planes: Tensor, taps: int, depth: int, shifts: int) -> tuple[Tensor, Tensor]:
    count, height, width = planes.shape
    coefficients = 0
    for _ in range(depth):
        height, width = (height + taps - 1) // 2, (width + taps - 1) // 2
        coefficients += 3 * height * width
    masks = planes.new_empty((count, (shifts + 1) ** 2, coefficients), dtype=torch.uint8)
    return torch.empty_like(planes, memory_format=torch.contiguous_format), masks


@wavelet_shrink.register_fake
def _(planes: Tensor, soft: Tensor, low: list[float], depth: int, shifts: int) -> tuple[Tensor, Tensor]:
    return _outputs(planes, len(low), depth, shifts)


@_adjoint.register_fake
def _(grad: Tensor, masks: Tensor, low: list[float], depth: int, shifts: int) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, list[float], int, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.settings = inputs[2:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None


wavelet_shrink.register_autograd(_backward, setup_context=_keep)
