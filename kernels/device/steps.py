"""Sums over draws and steps in the L∞ ball, each in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case

_TILE = 1024


@torch.library.custom_op("cannonade::add_draws", mutates_args=("total",))
def add_draws(total: Tensor, values: Tensor, first: int) -> None:
    """`add_draws_` of `cannonade.kernels.steps`: total [N, …] contiguous and values [R, …], float32."""
    if values.numel() == 0:
        return
    size = total[0].numel()
    with on_device(total):
        _add_kernel[(len(total) * triton.cdiv(size, _TILE),)](
            total, values.contiguous(), len(total), len(values), size, first % len(total), TILE=_TILE
        )


@torch.library.custom_op("cannonade::linf_step", mutates_args=())
def advance(points: Tensor, images: Tensor, direction: Tensor, size: float, eps: float) -> Tensor:
    """`linf_step` of `cannonade.kernels.steps`."""
    points = points.contiguous()
    out = torch.empty_like(points)
    with on_device(points):
        _advance_kernel[(triton.cdiv(out.numel(), _TILE),)](
            out, points, images.contiguous(), direction.contiguous(), size, eps, out.numel(), TILE=_TILE
        )
    return out


@advance.register_fake
def _(points: Tensor, images: Tensor, direction: Tensor, size: float, eps: float) -> Tensor:
    return torch.empty_like(points, memory_format=torch.contiguous_format)


@jit
def _add_kernel(
    total_ptr: tl.tensor,
    values_ptr: tl.tensor,
    n_images: tl.tensor,
    n_rows: tl.tensor,
    size: tl.tensor,
    first: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    tiles = tl.cdiv(size, TILE)
    image = tl.program_id(0) // tiles
    element = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = element < size
    to = total_ptr + image.to(tl.int64) * size + element
    total = tl.load(to, mask=own, other=0.0)
    row = (image - first + n_images) % n_images
    while row < n_rows:
        total += tl.load(values_ptr + row.to(tl.int64) * size + element, mask=own, other=0.0)
        row += n_images
    tl.store(to, total, mask=own)


@jit
def _advance_kernel(
    out_ptr: tl.tensor,
    points_ptr: tl.tensor,
    images_ptr: tl.tensor,
    direction_ptr: tl.tensor,
    step: tl.tensor,
    eps: tl.tensor,
    count: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    own = place < count
    image = tl.load(images_ptr + place, mask=own, other=0.0).to(tl.float32)
    point = tl.load(points_ptr + place, mask=own, other=0.0).to(tl.float32)
    direction = tl.load(direction_ptr + place, mask=own, other=0.0).to(tl.float32)
    delta = tl.minimum(tl.maximum(point + step * direction - image, -eps), eps)
    tl.store(out_ptr + place, tl.minimum(tl.maximum(image + delta, 0.0), 1.0).to(out_ptr.dtype.element_ty), mask=own)


_POINTERS = ("out_ptr", "points_ptr", "images_ptr", "direction_ptr")

CASES = (
    Case(
        name="sum over draws",
        kernel=_add_kernel,
        types={"total_ptr": "*fp32", "values_ptr": "*fp32"}
        | dict.fromkeys(("n_images", "n_rows", "size", "first"), "i32"),
        constants={"TILE": _TILE},
        aligned=("size",),
        bytes_per_pixel=36,  # one draw: its values and the total; several read the total once
        least_bytes=36,
    ),
    Case(
        name="L∞ step",
        kernel=_advance_kernel,
        types=dict.fromkeys(_POINTERS, "*fp32") | {"step": "fp32", "eps": "fp32", "count": "i32"},
        constants={"TILE": _TILE},
        aligned=("count",),
        bytes_per_pixel=48,
        least_bytes=48,
    ),
)
