"""Windows: Gaussian blur, disk mean, disk and box median, and mean bilateral, each plane with a window of its own.

Planes of equal window are computed together. They are laid end to end in one row of memory, padding included, so that
reading every pixel's neighbour at (dy, dx) is one contiguous slice; a few of those slices at a time stay in cache.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.errors import InputError

Border = Literal["replicate", "reflect"]
Window = tuple[int, ...]  # half-widths of its rows, top to bottom; the number of rows is odd

_BLOCK = 1 << 18  # bytes a pass takes on a CPU: the six rows it works on fit a core's second-level cache
_FEW = 1 << 17  # pixels of the planes that are taken together on a CPU, for the same reason
_OUTSIDE = 1e30  # above every upper bound, and finite because it is multiplied by a zero


def gaussian_blur(
    images: Tensor, sigma: Tensor, half_width: Tensor | None = None, border: Border = "replicate"
) -> Tensor:
    """Convolve with a sampled Gaussian, normalised to sum 1, along columns and then along rows.

    It adds shifted planes instead of calling a convolution, which may run in TF32. Every result is kept between the
    least and greatest value of its plane, where rounding alone would let it leave them; backward is the exact adjoint.

    Args:
        images: [N, C, H, W].
        sigma: [N, C, 2] standard deviations in pixels, vertical and horizontal, above 0.
        half_width: [N, C, 2] integers, the farthest pixel that counts; ⌊4σ + ½⌋ by default.
        border: what lies outside: the edge pixel, or the image mirrored without repeating its edge pixel.

    Returns:
        [N, C, H, W].

    Raises:
        InputError: a mirrored border is wider than the image.
    """
    if half_width is None:
        half_width = (4 * sigma.double() + 0.5).floor().long()
    sigmas, halves = sigma.flatten(0, 1), half_width.flatten(0, 1)
    most = int(halves.max()) if len(halves) else 0
    if border == "reflect" and most >= min(images.shape[-2:]):
        raise InputError(f"a mirrored border of {most} pixels needs an image of more, got {list(images.shape)}")
    planes = images.flatten(0, 1)
    for axis in range(2):
        planes = _GaussianBlur.apply(planes, sigmas[:, axis], halves[:, axis], axis + 1, border)
    return planes.view(images.shape)


def disk_mean(images: Tensor, radius: Tensor) -> Tensor:
    """Mean of the pixels of the disk dx² + dy² ≤ r² that lie inside the image; backward is the exact adjoint.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.

    Returns:
        [N, C, H, W].
    """
    planes: Tensor = _DiskMean.apply(images.flatten(0, 1), radius.flatten())
    return planes.view(images.shape)


def disk_median(images: Tensor, radius: Tensor) -> Tensor:
    """Upper median, sorted[n // 2], of the n pixels of the disk dx² + dy² ≤ r² that lie inside the image.

    Values are replaced by their ranks in the plane, so the selection is exact for any floating-point values, and the
    rank is found bit by bit. Backward gives the gradient to the selected pixel, the first in raster order among equals.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.

    Returns:
        [N, C, H, W], of the images' own values.
    """
    planes = images.flatten(0, 1)
    with torch.no_grad():
        place = _by_key(radius.flatten(), planes, lambda key, part, _: _median_place(part, disk(key)), torch.int32)
    out: Tensor = _Pick.apply(planes, place)
    return out.view(images.shape)


def box_median(images: Tensor, sides: Tensor) -> Tensor:
    """Median of a rectangle of odd sides around each pixel, zeros lying outside the image.

    Backward gives the gradient to the selected pixel, the first in raster order among equals; zeros outside take none.

    Args:
        images: [N, C, H, W].
        sides: [N, C, 2] odd integers, height and width of the rectangle.

    Returns:
        [N, C, H, W].
    """
    keys = sides.flatten(0, 1)
    top, left = (keys // 2).amax(0).tolist() if len(keys) else (0, 0)
    planes = F.pad(images.flatten(0, 1), (left, left, top, top))
    with torch.no_grad():
        place = _by_key(
            keys[:, 0] * (1 << 16) + keys[:, 1],
            planes,
            lambda key, part, _: _median_place(part, (key % (1 << 16) // 2,) * (key >> 16)),
            torch.int32,
        )
    height, width = images.shape[-2:]
    inside = place[:, top : top + height, left : left + width]
    out: Tensor = _Pick.apply(planes, inside)
    return out.view(images.shape)


def bilateral_mean(images: Tensor, radius: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Mean of the disk's pixels inside the image whose value v has g − below < v < g + above, g the centre's value.

    Backward takes the membership as constant, and finds it again instead of keeping it.

    Args:
        images: [N, C, H, W].
        radius: [N, C] integers.
        below, above: [N, C] positive.

    Returns:
        [N, C, H, W].
    """
    bounds = torch.stack((below, above), dim=-1).flatten(0, 1).to(images.dtype)
    planes: Tensor = _BilateralMean.apply(images.flatten(0, 1), radius.flatten(), bounds)
    return planes.view(images.shape)


def disk(radius: int) -> Window:
    """The half-widths of the rows of the disk dx² + dy² ≤ radius²."""
    return tuple(isqrt(radius * radius - dy * dy) for dy in range(-radius, radius + 1))


def _shifts(window: Window) -> list[tuple[int, int]]:
    """The window's (dy, dx), in raster order."""
    top = len(window) // 2
    return [(row - top, dx) for row, half in enumerate(window) for dx in range(-half, half + 1)]


def _inside_counts(window: Window, planes: Tensor) -> Tensor:
    """How many pixels of the window around each pixel lie inside the image: [H, W] float32, whole numbers."""
    height, width = planes.shape[1:]
    halves = torch.tensor(window, device=planes.device)[:, None]
    row, column = (torch.arange(side, device=planes.device) for side in (height, width))
    source = row[:, None] + torch.arange(len(window), device=planes.device) - len(window) // 2
    columns = (column + halves).clamp_(max=width - 1) - (column - halves).clamp_(min=0) + 1
    return ((source >= 0) & (source < height)).float() @ columns.float()


def _by_key(
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
class _Sheet:
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
    def lay(cls, planes: Tensor, window: Window, fill: float) -> "_Sheet":
        count, height, width = planes.shape
        top, left = len(window) // 2, max(window)
        margin = top * (width + left) + left
        length = count * (height + top) * (width + left)
        sheet = cls(planes.new_full((length + 2 * margin,), fill), (count, height, width), (top, left))
        sheet.inner().copy_(planes)
        return sheet

    @property
    def pitch(self) -> int:
        return self.shape[2] + self.reach[1]

    @property
    def margin(self) -> int:
        return self.reach[0] * self.pitch + self.reach[1]

    @property
    def length(self) -> int:
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


def _between_extremes(means: Tensor, planes: Tensor) -> Tensor:
    """Averages of each plane's values, kept (in place) from leaving their range by rounding."""
    if not planes.numel():
        return means
    return means.clamp_(planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True))


class _GaussianBlur(torch.autograd.Function):
    """Correlation along one dimension; planes [P, H, W], sigma and half_width [P]."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, sigma: Tensor, half_width: Tensor, dim: int, border: Border) -> Tensor:
        ctx.save_for_backward(sigma, half_width)
        ctx.dim, ctx.border = dim, border

        def blur(half: int, part: Tensor, rows: Tensor) -> Tensor:
            padded = F.pad(part, _along(dim, half), mode=border) if half else part
            return _correlate(padded, _gaussian_weights(sigma[rows], half, part.dtype), dim)

        return _between_extremes(_by_key(half_width, planes, blur), planes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sigma, half_width = ctx.saved_tensors

        def adjoint(half: int, part: Tensor, rows: Tensor) -> Tensor:
            weights = _gaussian_weights(sigma[rows], half, part.dtype)
            spread = _correlate(F.pad(part, _along(ctx.dim, 2 * half)), weights, ctx.dim)
            return _folded(spread, half, ctx.dim, ctx.border)

        return _by_key(half_width, grads[0], adjoint), None, None, None, None


def _along(dim: int, width: int) -> tuple[int, int, int, int]:
    """`F.pad`'s argument for both ends of dimension 1 or 2 of [P, H, W]."""
    return (0, 0, width, width) if dim == 1 else (width, width, 0, 0)


def _gaussian_weights(sigma: Tensor, half: int, dtype: torch.dtype) -> Tensor:
    """[G, 2·half + 1], each row summing to 1."""
    distance = torch.arange(-half, half + 1, device=sigma.device, dtype=torch.float64)
    weights = (-0.5 * (distance / sigma.double()[:, None]).square()).exp()
    return (weights / weights.sum(dim=1, keepdim=True)).to(dtype)


def _correlate(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Correlate [G, A, B] with symmetric weights [G, 2h + 1] along a dimension, which gets shorter by 2h."""
    count, rows, columns = padded.shape
    half = weights.shape[1] // 2
    step = columns if dim == 1 else 1
    flat = padded.contiguous().view(count, rows * columns)
    length = rows * columns - 2 * half * step
    row = torch.empty_like(flat)
    out, pair = row[:, :length], torch.empty_like(flat[:, :length])
    torch.mul(flat[:, half * step : half * step + length], weights[:, half : half + 1], out=out)
    for tap in range(half):
        far = (2 * half - tap) * step
        torch.add(flat[:, tap * step : tap * step + length], flat[:, far : far + length], out=pair)
        out.addcmul_(pair, weights[:, tap : tap + 1])
    return row.view(count, rows, columns).narrow(dim, 0, padded.shape[dim] - 2 * half)


def _folded(spread: Tensor, half: int, dim: int, border: Border) -> Tensor:
    """The adjoint of padding by `half`: what lies outside is added to the pixels it was copied from."""
    size = spread.shape[dim] - 2 * half
    core = spread.narrow(dim, half, size)
    head, tail = spread.narrow(dim, 0, half), spread.narrow(dim, half + size, half)
    if border == "replicate":
        core.narrow(dim, 0, 1).add_(head.sum(dim, keepdim=True))
        core.narrow(dim, size - 1, 1).add_(tail.sum(dim, keepdim=True))
    else:
        core.narrow(dim, 1, half).add_(head.flip(dim))
        core.narrow(dim, size - 1 - half, half).add_(tail.flip(dim))
    return core


class _DiskMean(torch.autograd.Function):
    """Planes [P, H, W], radius [P]."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, radius: Tensor) -> Tensor:
        ctx.save_for_backward(radius)

        def mean(key: int, part: Tensor, _: Tensor) -> Tensor:
            counts = _inside_counts(disk(key), part)
            return _disk_sum(part, disk(key)) / counts.to(part.dtype)

        return _between_extremes(_by_key(radius, planes, mean), planes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        def adjoint(key: int, part: Tensor, _: Tensor) -> Tensor:
            counts = _inside_counts(disk(key), part)
            return _disk_sum(part / counts.to(part.dtype), disk(key))

        return _by_key(ctx.saved_tensors[0], grads[0], adjoint), None


def _disk_sum(planes: Tensor, window: Window) -> Tensor:
    """Sum over the window's pixels inside the image: [G, H, W]."""
    sheet = _Sheet.lay(planes, window, 0.0)
    total = planes.new_zeros(sheet.length)
    for block in sheet.blocks():
        for shift in _shifts(window):
            total[block].add_(sheet.read(block, shift))
    return sheet.planes(total)


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
    shifts = _shifts(window)
    codes = [code for code in _CODES if len(shifts) <= torch.iinfo(code.dtype).max]
    below = (_inside_counts(window, planes) / 2).int().expand(planes.shape)
    ranks, most = _ranks(planes)
    bits, known = most.bit_length(), 0
    found = torch.zeros_like(ranks)
    for code in codes:
        if known < bits:
            new = min(code.bits, bits) - known
            found = _more_bits(ranks >> (bits - known - new), found << new, below, new, code, window)
            known += new
    before = _before_equal(ranks, found, next(code for code in codes if most + 1 < 1 << code.bits), window)
    offsets = torch.tensor([dy * width + dx for dy, dx in shifts], device=planes.device, dtype=torch.int32)
    own = torch.arange(height * width, device=planes.device, dtype=torch.int32).view(height, width)
    return offsets[before.int()] + own


def _ranks(planes: Tensor) -> tuple[Tensor, int]:
    """Each value's number among its plane's distinct values, [G, H, W] int32 from 0, and the largest of them."""
    values, order = planes.flatten(1).sort(dim=1)
    steps = (values[:, 1:] != values[:, :-1]).cumsum(dim=1, dtype=torch.int32)
    ranks = torch.zeros_like(values, dtype=torch.int32).scatter_(1, order[:, 1:], steps)
    return ranks.view(planes.shape), int(steps[:, -1].max())


@dataclass(frozen=True)
class _Code:
    """Numbers 0 … 2^bits − 1 in a type, 0 being `zero` there; the last of them also stands for a pixel outside."""

    dtype: torch.dtype
    bits: int
    zero: int = 0

    def lay(self, numbers: Tensor, window: Window) -> _Sheet:
        return _Sheet.lay((numbers + self.zero).to(self.dtype), window, torch.iinfo(self.dtype).max)


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
    limits = _Sheet.lay(below.to(code.dtype), window, 0)
    for block in sheet.blocks():
        level, limit = levels.read(block), limits.read(block)
        tried, hit, count = (torch.empty_like(level) for _ in range(3))
        for bit in reversed(range(bits)):
            torch.add(level, 1 << bit, out=tried)
            count.zero_()
            for shift in _shifts(window):
                torch.lt(sheet.read(block, shift), tried, out=hit)
                count.add_(hit)
            torch.le(count, limit, out=hit)
            level.add_(hit, alpha=1 << bit)
    return levels.inner().int() - code.zero


def _before_equal(ranks: Tensor, found: Tensor, code: _Code, window: Window) -> Tensor:
    """How many of the window's pixels, in raster order, come before the first whose rank is `found`: [G, H, W]."""
    sheet, levels = code.lay(ranks, window), code.lay(found, window)
    before = torch.zeros(sheet.length, dtype=code.dtype, device=ranks.device)
    for block in sheet.blocks():
        level, count = levels.read(block), before[block]
        unequal, none_yet = torch.empty_like(level), torch.ones_like(level)
        for shift in _shifts(window):
            torch.ne(sheet.read(block, shift), level, out=unequal)
            count.add_(none_yet.mul_(unequal))
    return sheet.planes(before)


class _BilateralMean(torch.autograd.Function):
    """Planes [P, H, W], radius [P], bounds [P, 2] (below, above)."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, radius: Tensor, bounds: Tensor) -> Tensor:
        counts = torch.empty_like(planes, memory_format=torch.contiguous_format)

        def mean(key: int, part: Tensor, rows: Tensor) -> Tensor:
            total, counts[rows] = _bilateral_sum(part, bounds[rows], disk(key))
            return total / counts[rows]

        out = _between_extremes(_by_key(radius, planes, mean), planes)
        ctx.save_for_backward(planes, radius, bounds, counts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        planes, radius, bounds, counts = ctx.saved_tensors

        def adjoint(key: int, part: Tensor, rows: Tensor) -> Tensor:
            return _bilateral_adjoint(part / counts[rows], planes[rows], bounds[rows], disk(key))

        return _by_key(radius, grads[0], adjoint), None, None


def _bound_sheets(planes: Tensor, bounds: Tensor, window: Window) -> tuple[_Sheet, _Sheet]:
    """Each pixel's least and greatest value of a member."""
    below, above = bounds[:, :, None, None].unbind(1)
    return _Sheet.lay(planes - below, window, 0.0), _Sheet.lay(planes + above, window, 0.0)


def _bilateral_sum(planes: Tensor, bounds: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Sum and number of each window's members: v is one if clamping it to its centre's bounds leaves it as it is."""
    values = _Sheet.lay(planes, window, _OUTSIDE)
    lower, upper = _bound_sheets(planes, bounds, window)
    total, number = (planes.new_zeros(values.length) for _ in range(2))
    for block in values.blocks():
        low, high = lower.read(block), upper.read(block)
        member = torch.empty_like(low)
        for shift in _shifts(window):
            value = values.read(block, shift)
            torch.clamp(value, low, high, out=member)
            torch.eq(member, value, out=member)
            number[block].add_(member)
            total[block].addcmul_(value, member)
    return values.planes(total), values.planes(number)


def _bilateral_adjoint(shares: Tensor, planes: Tensor, bounds: Tensor, window: Window) -> Tensor:
    """Each pixel's sum of the shares (gradient over number) of the windows that it is a member of."""
    values, weights = _Sheet.lay(planes, window, _OUTSIDE), _Sheet.lay(shares, window, 0.0)
    lower, upper = _bound_sheets(planes, bounds, window)
    total = planes.new_zeros(values.length)
    for block in values.blocks():
        value = values.read(block)
        member = torch.empty_like(value)
        for shift in _shifts(window):
            torch.clamp(value, lower.read(block, shift), upper.read(block, shift), out=member)
            torch.eq(member, value, out=member)
            total[block].addcmul_(member, weights.read(block, shift))
    return values.planes(total)
