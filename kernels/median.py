"""Upper median of a disk or a box, each plane with a window of its own: exact for any values, by bisection over their ranks."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.window import median_adjoint_into, median_into, window_median
from cannonade.kernels.sheets import Sheet, Window, by_key, disk, inside_counts, shifts


def disk_median(images: Tensor, radius: Tensor, backend: Backend = "auto") -> Tensor:
    """Upper median, sorted[n // 2], of the n pixels of the disk dx² + dy² ≤ r² that lie inside the image.

    Values are replaced by their ranks in the plane, so the selection is exact for any floating-point values, and the
    rank is found bit by bit. Backward gives the gradient to the selected pixel, the first in raster order among equals.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.
        backend: "auto", "triton", "native" or "torch"; of the same bits.

    Returns:
        [N, C, H, W], of the images' own values.
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        medians: Tensor = window_median(images, radius[:, :, None].expand(-1, -1, 2), True, chosen)[0]
        return medians
    planes = images.flatten(0, 1)
    with torch.no_grad():
        place = by_key(radius.flatten(), planes, lambda key, part, _: _median_place(part, disk(key)), torch.int32)
    out: Tensor = _Pick.apply(planes, place)
    return out.view(images.shape)


def box_median(images: Tensor, sides: Tensor, backend: Backend = "auto") -> Tensor:
    """Median of a rectangle of odd sides around each pixel, zeros lying outside the image.

    Backward gives the gradient to the selected pixel, the first in raster order among equals; zeros outside take none.

    Args:
        images: [N, C, H, W].
        sides: [N, C, 2] odd integers, height and width of the rectangle.
        backend: "auto", "triton", "native" or "torch"; of the same bits.

    Returns:
        [N, C, H, W].
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        medians: Tensor = window_median(images, sides // 2, False, chosen)[0]
        return medians
    keys = sides.flatten(0, 1)
    top, left = (keys // 2).amax(0).tolist() if len(keys) else (0, 0)
    planes = F.pad(images.flatten(0, 1), (left, left, top, top))
    with torch.no_grad():
        place = by_key(
            keys[:, 0] * (1 << 16) + keys[:, 1],
            planes,
            lambda key, part, _: _median_place(part, (key % (1 << 16) // 2,) * (key >> 16)),
            torch.int32,
        )
    height, width = images.shape[-2:]
    inside = place[:, top : top + height, left : left + width]
    out: Tensor = _Pick.apply(planes, inside)
    return out.view(images.shape)


def disk_median_step(radius: Tensor) -> Step:
    """`disk_median` by launchers, which keep the place of every median; radius [M, C], a row for each image of a launch."""
    return _median_step(radius[:, :, None].expand(-1, -1, 2), disk_shaped=True)


def box_median_step(sides: Tensor) -> Step:
    """`box_median` by launchers; sides [M, C, 2]."""
    return _median_step(sides // 2, disk_shaped=False)


def _median_step(reach: Tensor, disk_shaped: bool) -> Step:
    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        shape = (len(images), *images.buffer.shape[1:])
        places = images.buffer.new_empty(shape, dtype=torch.int32)
        median_into(out, images, reach, disk_shaped, places)
        return (places,)

    def backward(to: Rows, grad: Rows, images: Rows, places: Tensor) -> None:
        median_adjoint_into(to, grad, reach, disk_shaped, places)

    return Step(forward, backward)


class _Pick(torch.autograd.Function):
    """Values of planes [P, H, W] at places [P, h, w], int32 numbers of pixels in their plane."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.shape = planes.shape
        return planes.flatten(1).gather(1, place.flatten(1).long()).view(place.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        place = ctx.saved_tensors[0].flatten(1).long()
        grad = grads[0].flatten(1)
        out = grad.new_zeros(ctx.shape).flatten(1)
        if out.device.type == "cpu":
            out.scatter_add_(1, place, grad)
        else:  # sorts, and so adds in a fixed order, where scatter_add_ would add atomically
            rows = torch.arange(len(out), device=out.device)[:, None].expand_as(place)
            out.index_put_((rows, place), grad, accumulate=True)
        return out.view(ctx.shape), None


def _median_place(planes: Tensor, window: Window) -> Tensor:
    """Where in its plane [G, H, W] each pixel's upper median lies: [G, H, W] int32, the first place among equals.

    The median's rank is the largest number that has at most n // 2 of the window's ranks below it. Its first eight bits
    are found with bytes, the next eight with 16-bit numbers, because a pass over smaller numbers is faster.
    """
    height, width = planes.shape[1:]
    places = shifts(window)
    codes = [code for code in _CODES if len(places) <= torch.iinfo(code.dtype).max]
    below = (inside_counts(window, planes) / 2).int().expand(planes.shape)
    ranks, most = _ranks(planes)
    bits, known = most.bit_length(), 0
    found = torch.zeros_like(ranks)
    for code in codes:
        if known < bits:
            new = min(code.bits, bits) - known
            found = _more_bits(ranks >> (bits - known - new), found << new, below, new, code, window)
            known += new
    before = _before_equal(ranks, found, next(code for code in codes if most + 1 < 1 << code.bits), window)
    offsets = torch.tensor([dy * width + dx for dy, dx in places], device=planes.device, dtype=torch.int32)
    own = torch.arange(height * width, device=planes.device, dtype=torch.int32).view(height, width)
    return offsets[before.int()] + own


def _ranks(planes: Tensor) -> tuple[Tensor, int]:
    """Each value's number among its plane's distinct values, [G, H, W] int32 from 0, and the largest of them."""
    values, order = planes.flatten(1).sort(dim=1)
    steps = (values[:, 1:] != values[:, :-1]).cumsum(dim=1, dtype=torch.int32)
    ranks = torch.zeros_like(values, dtype=torch.int32).scatter_(1, order[:, 1:], steps)
    return ranks.view(planes.shape), int(ranks.max())


@dataclass(frozen=True)
class _Code:
    """Numbers 0 … 2^bits − 1 in a type, 0 being `zero` there; the last of them also stands for a pixel outside."""

    dtype: torch.dtype
    bits: int
    zero: int = 0

    def lay(self, numbers: Tensor, window: Window) -> Sheet:
        return Sheet.lay((numbers + self.zero).to(self.dtype), window, torch.iinfo(self.dtype).max)


_CODES = (_Code(torch.uint8, 8), _Code(torch.int16, 16, -(1 << 15)), _Code(torch.int32, 31))


def _more_bits(ranks: Tensor, found: Tensor, below: Tensor, bits: int, code: _Code, window: Window) -> Tensor:
    """Find the last `bits` bits of the largest number with at most `below` of its window's ranks under it.

    Args:
        ranks: [G, H, W] int32.
        found: the number's other bits.
        below: [G, H, W] int32.

    Returns:
        [G, H, W] int32.
    """
    sheet, levels = code.lay(ranks, window), code.lay(found, window)
    limits = Sheet.lay(below.to(code.dtype), window, 0)
    for block in sheet.blocks():
        level, limit = levels.read(block), limits.read(block)
        tried, hit, count = (torch.empty_like(level) for _ in range(3))
        for bit in reversed(range(bits)):
            step = 1 << bit
            if step > torch.iinfo(code.dtype).max:
                step -= 1 << code.bits  # the same number to a type that wraps around
            torch.add(level, step, out=tried)
            count.zero_()
            for shift in shifts(window):
                torch.lt(sheet.read(block, shift), tried, out=hit)
                count.add_(hit)
            torch.le(count, limit, out=hit)
            level.add_(hit, alpha=step)
    return levels.inner().int() - code.zero


def _before_equal(ranks: Tensor, found: Tensor, code: _Code, window: Window) -> Tensor:
    """How many of the window's pixels, in raster order, come before the first whose rank is `found`: [G, H, W]."""
    sheet, levels = code.lay(ranks, window), code.lay(found, window)
    before = torch.zeros(sheet.length, dtype=code.dtype, device=ranks.device)
    for block in sheet.blocks():
        level, count = levels.read(block), before[block]
        unequal, none_yet = torch.empty_like(level), torch.ones_like(level)
        for shift in shifts(window):
            torch.ne(sheet.read(block, shift), level, out=unequal)
            count.add_(none_yet.mul_(unequal))
    return sheet.planes(before)
