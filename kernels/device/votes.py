"""Counting votes in one pass over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case

_CLASSES = 1024  # looked at together


@torch.library.custom_op("cannonade::count_votes", mutates_args=("counts",))
def count(counts: Tensor, rows: Tensor, logits: Tensor) -> None:
    """`count_votes_` of `cannonade.kernels.votes`."""
    if len(rows) == 0:
        return
    classes = logits.shape[1]
    tile = min(triton.next_power_of_2(classes), _CLASSES)
    with on_device(counts):
        _count_kernel[(len(rows),)](counts, rows.contiguous(), logits.contiguous(), classes, TILE=tile)


@jit
def _count_kernel(
    counts_ptr: tl.tensor, rows_ptr: tl.tensor, logits_ptr: tl.tensor, classes: tl.tensor, TILE: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    largest = -float("inf")
    winner = 0
    for start in range(0, classes, TILE):
        label = start + tl.arange(0, TILE)
        values = tl.load(logits_ptr + row * classes + label, mask=label < classes, other=-float("inf")).to(tl.float32)
        best = tl.max(values, axis=0)
        first = tl.min(tl.where(values == best, label, 2147483647), axis=0)
        winner = tl.where(best > largest, first, winner)
        largest = tl.maximum(best, largest)
    image = tl.load(rows_ptr + row)
    tl.atomic_add(counts_ptr + image * classes + winner, 1)  # whole numbers: the order does not matter


CASES = (
    Case(
        name="votes",
        kernel=_count_kernel,
        types={"counts_ptr": "*i64", "rows_ptr": "*i64", "logits_ptr": "*fp32", "classes": "i32"},
        constants={"TILE": _CLASSES},
        bytes_per_pixel=0.08,  # 1000 logits of a 224×224 image
        least_bytes=0.08,
    ),
)
