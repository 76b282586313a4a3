"""Where the images of a program stand in its buffers, launch by launch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.kernels.backend import carry

# Of one launch: the rows of the buffer that it reads and writes, and those of the gradients' buffer; [M] int64 each.
Move = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Places:
    """Rows of two buffers: one of images, and one of 2·N gradients, where each image's goes to and fro between two rows.

    Attributes:
        size: rows of the images' buffer, whose first N hold the images.
        moves: of each launch.
        ends: [N] int64, the rows of the results.
        grad_ends: [N] int64, the rows of the results' gradients.
    """

    size: int
    moves: list[Move]
    ends: Tensor
    grad_ends: Tensor


def places_of_rows(launches: Sequence[Sequence[int]], count: int, keep: bool, device: torch.device) -> Places:
    """Places for launches whose rows the host knows; they travel to the device together.

    Args:
        launches: the rows of each.
        count: N, the number of images.
        keep: a row for what each launch makes of each image; else an image goes to and fro between two rows.
        device: of the images.
    """
    at, turn, free = list(range(count)), [0] * count, count
    table: list[list[int]] = []
    for row in (row for rows in launches for row in rows):
        turn[row] ^= 1
        here, there = turn[row] * count + row, (1 - turn[row]) * count + row
        table.append([at[row], free if keep else here, here, there])
        at[row] = table[-1][1]
        free += 1
    table += [[end, turn[row] * count + row, 0, 0] for row, end in enumerate(at)]
    places = carry(torch.tensor(table, dtype=torch.int64).view(-1, 4).mT.contiguous(), device)
    *columns, final = places.split([*map(len, launches), count], dim=1)
    size = free if keep else 2 * count
    return Places(size, [(own[0], own[1], own[2], own[3]) for own in columns], final[0], final[1])


def places_of_stages(steps: Tensor, launches: Sequence[tuple[int, Tensor]], keep: bool) -> Places:
    """Places for launches over the whole batch, found on the device: image n after t steps is row t·N + n.

    Args:
        steps: [N, k] int64, −1 for no step.
        launches: the stage of each, and [N] int64, below 0 for the images that it leaves out.
        keep: as for `places_of_rows`.
    """
    count, stages = steps.shape
    image = torch.arange(count, device=steps.device)
    taken = (steps >= 0).long()
    after = taken.cumsum(1).mT
    before = after - taken.mT
    of_images = (before, after) if keep else (before % 2, after % 2)
    rows = torch.stack((*of_images, after % 2, before % 2)) * count + image
    moves = [
        (own[0], own[1], own[2], own[3])
        for own in (torch.where(index >= 0, rows[:, stage], -1) for stage, index in launches)
    ]
    return Places(count * (stages + 1 if keep else 2), moves, rows[1, -1], rows[2, -1])
