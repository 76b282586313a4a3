"""What an attack does between two gradients: the sum over draws, and the step into the ball and into [0, 1]."""

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.steps import add_draws, advance


def add_draws_(total: Tensor, values: Tensor, first: int, backend: Backend = "auto") -> None:
    """Add the rows of a chunk to the totals of their images, in place and in ascending order of the draws.

    Row r of an estimate is draw r // N of image r % N; a chunk is some of its consecutive rows. The order of the additions,
    and with it every bit, is the same however the rows are cut into chunks.

    Args:
        total: [N, …] contiguous.
        values: [R, …], of the same type.
        first: the number of the chunk's first row.
        backend: "auto", "triton" or "torch"; of the same bits.
    """
    if choose(backend, total, on_gpu=total.dtype == torch.float32) == "triton":
        add_draws(total, values, first)
        return
    row, last = first, first + len(values)
    while row < last:
        start = row % len(total)
        stop = min(len(total), start + last - row)
        total[start:stop] += values[row - first : row - first + stop - start]
        row += stop - start


def linf_step(
    points: Tensor, images: Tensor, direction: Tensor, size: float, eps: float, backend: Backend = "auto"
) -> Tensor:
    """Move along a direction, then into the L∞ ball around the images and into [0, 1], which gives the nearest such point.

    Args:
        points, images, direction: [N, C, H, W].
        size: of the step.
        eps: radius of the ball.
        backend: "auto", "triton" or "torch"; of the same bits where size·direction is exact, as for a sign.
    """
    if choose(backend, points, on_gpu=points.dtype in NARROW) == "triton":
        moved: Tensor = advance(points, images, direction, size, eps)
        return moved
    return (images + (points + size * direction - images).clamp(-eps, eps)).clamp(0, 1)
