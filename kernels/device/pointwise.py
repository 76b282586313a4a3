"""Shifts of colours by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::shift_colours", mutates_args=())
def shift_colours(images: Tensor, shift: Tensor, constants: list[float], space: int) -> Tensor:
    """Shifted colours: images [N, 3, H, W] and shift [N, 3], float32.

    Args:
        constants: the matrices to the space and back, row by row, and the white.
        space: 0 HSV, 1 LAB, 2 XYZ, 3 YUV.
    """
    images = images.contiguous()
    out = torch.empty_like(images)
    native.run("shift_colours", out, images, shift.contiguous(), torch.tensor(constants), space, *_sizes(images))
    return out


@torch.library.custom_op("cannonade::shift_colours_adjoint", mutates_args=())
def _adjoint(grad: Tensor, images: Tensor, shift: Tensor, constants: list[float], space: int) -> Tensor:
    images = images.contiguous()
    out = torch.empty_like(images)
    arguments = (out, grad.contiguous(), images, shift.contiguous(), torch.tensor(constants), space)
    native.run("shift_colours_adjoint", *arguments, *_sizes(images))
    return out


def _sizes(images: Tensor) -> tuple[int, int]:
    return len(images), images.shape[2:].numel()


@shift_colours.register_fake
def _(images: Tensor, shift: Tensor, constants: list[float], space: int) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_adjoint.register_fake
def _(grad: Tensor, images: Tensor, shift: Tensor, constants: list[float], space: int) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, list[float], int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


shift_colours.register_autograd(_backward, setup_context=_keep)
