"""JPEG round trips by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::jpeg", mutates_args=())
def round_trip(
    images: Tensor, luma_table: Tensor, chroma_table: Tensor, nearest: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`jpeg` of `cannonade.kernels.jpeg`, float32, and where the clamps to 8 bits did not act: of RGB, luma and chroma.

    Args:
        images: [N, 3, H, W].
        luma_table, chroma_table: [N, 8, 8] integers.
        nearest: round to 8 bits, else cut off.
    """
    images = images.contiguous()
    outputs = _outputs(images)
    tables = (table.to(torch.int32).contiguous() for table in (luma_table, chroma_table))
    native.run("jpeg", *outputs, images, *tables, int(nearest), len(images), *images.shape[2:])
    return outputs


@torch.library.custom_op("cannonade::jpeg_adjoint", mutates_args=())
def _adjoint(grad: Tensor, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor) -> Tensor:
    out = torch.empty_like(grad, memory_format=torch.contiguous_format)
    native.run("jpeg_adjoint", out, grad.contiguous(), inside, luma_inside, chroma_inside, len(grad), *grad.shape[2:])
    return out


def _outputs(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, channels, height, width = images.shape
    return (
        torch.empty_like(images, memory_format=torch.contiguous_format),
        images.new_empty((count, channels, height, width), dtype=torch.uint8),
        images.new_empty((count, height, width), dtype=torch.uint8),
        images.new_empty((count, 2, (height + 1) // 2, (width + 1) // 2), dtype=torch.uint8),
    )


@round_trip.register_fake
def _(images: Tensor, luma_table: Tensor, chroma_table: Tensor, nearest: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(images)


@_adjoint.register_fake
def _(grad: Tensor, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
    return _adjoint(grad, *ctx.saved_tensors), None, None, None


round_trip.register_autograd(_backward, setup_context=_keep)
