"""Planes laid end to end in one row of memory, padding included: reading every pixel's neighbour at (dy, dx) is one slice.

Planes of equal window are computed together, a few slices at a time, so that what is worked on stays in cache.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

Window = tuple[int, ...]  # half-widths of its rows, top to bottom; the number of rows is odd

_BLOCK = 1 << 18  # bytes a pass takes on a CPU: the six rows it works on fit a core's second-level cache
_FEW = 1 << 17  # pixels of the planes that are taken together on a CPU, for the same reason


def disk(radius: int) -> Window:
    """The half-widths of the rows of the disk dx² + dy² ≤ radius²."""
    return tuple(isqrt(radius * radius - dy * dy) for dy in range(-radius, radius + 1))


def disk_windows(radius: Tensor) -> Tensor:
    """The disks of these radii as rows of a table, [P, 2·R + 1] half-widths, −1 for the rows that one does not have."""
    reach = int(radius.max()) if len(radius) else 0
    rows = torch.arange(-reach, reach + 1, device=radius.device)
    square = radius[:, None] ** 2 - rows**2
    # The root of a whole number below 2^52 is exact where it is whole, so its floor is right.
    return torch.where(square >= 0, square.clamp(min=0).double().sqrt().floor().long(), -1)


def shifts(window: Window) -> list[tuple[int, int]]:
    """The window's (dy, dx), in raster order."""
    top = len(window) // 2
    return [(row - top, dx) for row, half in enumerate(window) for dx in range(-half, half + 1)]


def inside_counts(window: Window, planes: Tensor) -> Tensor:
    """How many pixels of the window around each pixel lie inside the image: [H, W] float32, whole numbers."""
    height, width = planes.shape[1:]
    halves = torch.tensor(window, device=planes.device)[:, None]
    row, column = (torch.arange(side, device=planes.device) for side in (height, width))
    source = row[:, None] + torch.arange(len(window), device=planes.device) - len(window) // 2
    columns = (column + halves).clamp_(max=width - 1) - (column - halves).clamp_(min=0) + 1
    return ((source >= 0) & (source < height)).float() @ columns.float()


def by_key(
    keys: Tensor, planes: Tensor, compute: Callable[[int, Tensor, Tensor], Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """`compute(key, planes, rows)` for the planes of every distinct key, a few at a time, put together: [P, H, W]."""
    out = torch.empty(planes.shape, dtype=dtype or planes.dtype, device=planes.device)
    for key in keys.unique().tolist():
        same = (keys == key).nonzero()[:, 0]
        few = max(1, _FEW // planes[0].numel()) if planes.device.type == "cpu" else len(same)
        for rows in same.split(few):
            out.index_copy_(0, rows, compute(int(key), planes[rows], rows))
    return out


@dataclass(frozen=True)
class Sheet:
    """Planes laid end to end, each row followed by a margin that is also the next row's, each plane likewise.

    Attributes:
        memory: [margin + G·(H + top)·(W + left) + margin].
        shape: (G, H, W) of the planes.
        reach: (top, left), how far a window reaches.
    """

    memory: Tensor
    shape: tuple[int, int, int]
    reach: tuple[int, int]

    @classmethod
    def lay(cls, planes: Tensor, window: Window, fill: float) -> "Sheet":
        """Lay planes [G, H, W] out for a window, with `fill` around them."""
        count, height, width = planes.shape
        top, left = len(window) // 2, max(window)
        margin = top * (width + left) + left
        length = count * (height + top) * (width + left)
        sheet = cls(planes.new_full((length + 2 * margin,), fill), (count, height, width), (top, left))
        sheet.inner().copy_(planes)
        return sheet

    @property
    def pitch(self) -> int:
        """Places from a pixel to the one below it."""
        return self.shape[2] + self.reach[1]

    @property
    def margin(self) -> int:
        """Places before the first pixel and after the last."""
        return self.reach[0] * self.pitch + self.reach[1]

    @property
    def length(self) -> int:
        """Places between the two margins."""
        return len(self.memory) - 2 * self.margin

    def planes(self, row: Tensor) -> Tensor:
        """[G, H, W] of a row of results: its margins left out."""
        count, height, width = self.shape
        return row.view(count, height + self.reach[0], self.pitch)[:, :height, :width]

    def inner(self) -> Tensor:
        """[G, H, W], the planes as they lie in memory."""
        return self.planes(self.read(slice(0, self.length)))

    def blocks(self) -> Iterator[slice]:
        """Slices that together are all places; on a GPU, one."""
        step = _BLOCK // self.memory.element_size() if self.memory.device.type == "cpu" else max(self.length, 1)
        return (slice(start, min(start + step, self.length)) for start in range(0, self.length, step))

    def read(self, block: slice, shift: tuple[int, int] = (0, 0)) -> Tensor:
        """The neighbours at (dy, dx) of a block of places."""
        offset = self.margin + shift[0] * self.pitch + shift[1]
        return self.memory[block.start + offset : block.stop + offset]


def between_extremes(means: Tensor, planes: Tensor) -> Tensor:
    """Averages of each plane's values, kept (in place) from leaving their range by rounding."""
    if not planes.numel():
        return means
    return means.clamp_(planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True))
