"""The wavelet transform of planes on Triton, every plane with a wavelet of its own, and an estimate of noise from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels.backend import constants, jit, on_device, tl, triton
from cannonade.kernels.device.blur import _start
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

_TILE = (8, 64)  # rows and columns of a program
_RUN = 2048  # coefficients of a sub-band that a program looks at together
_LONGEST = 18  # taps of any filter

# Which coefficients are exactly 0 decides about planes that are flat in most places. So analysis adds the products in the
# reference's order and rounds each of them: launches of analysis say enable_fp_fusion=False.


@dataclass(frozen=True)
class Bank:
    """Some wavelets and how deep each goes.

    Attributes:
        filters: [K, 2, 18] float64, low-pass and high-pass for decomposition, zeros after the last tap.
        table: [K, 2] int64, taps and levels.
    """

    filters: Tensor
    table: Tensor


def bank(filters: tuple[tuple[float, ...], ...], depths: tuple[int, ...], device: torch.device) -> Bank:
    """On a device, where each table is sent once."""
    pairs = [(low, [value if tap % 2 else -value for tap, value in enumerate(reversed(low))]) for low in filters]
    padded = tuple(tuple((*own, *[0.0] * (_LONGEST - len(own))) for own in pair) for pair in pairs)
    table = tuple((len(taps), depth) for taps, depth in zip(filters, depths, strict=True))
    return Bank(constants(padded, torch.float64, device), constants(table, torch.int64, device))


def sizes_of(height: int, width: int, taps: int, depth: int) -> tuple[tuple[int, int], ...]:
    """Height and width of what every level is made from, and of what is left after the last."""
    sizes = [(height, width)]
    for _ in range(depth):
        height, width = (height + taps - 1) // 2, (width + taps - 1) // 2
        sizes.append((height, width))
    return tuple(sizes)


@dataclass(frozen=True)
class Plan:
    """What the programs of a launch do, each for one circular shift of one plane.

    Attributes:
        index: [M] int64, below 0 where there is no image.
        table: [M, 5] int64: taps, levels, 1 for soft thresholds, the largest shift, 1 for YCbCr.
        filters: [M, 2, 18] float64.
        channels: planes of an image.
        sizes: `sizes_of` for every wavelet there may be.
        steps: the most circular shifts of any image.
    """

    index: Tensor
    table: Tensor
    filters: Tensor
    channels: int
    sizes: tuple[tuple[tuple[int, int], ...], ...]
    steps: int

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of a plane."""
        return self.sizes[0][0]

    @property
    def pairs(self) -> int:
        """Planes times shifts."""
        return len(self.index) * self.channels * self.steps

    @property
    def depth(self) -> int:
        """The most levels."""
        return max(len(own) - 1 for own in self.sizes)

    @cached_property
    def coefficients(self) -> int:
        """The most that a plane has in all its sub-bands."""
        return max(sum(3 * height * width for height, width in own[1:]) for own in self.sizes)

    @cached_property
    def between(self) -> int:
        """The most values of a plane that has been halved along its columns only."""
        return max(below[0] * above[1] for own in self.sizes for above, below in pairwise(own))

    @cached_property
    def area(self) -> int:
        """The most values that a level is made from, or that are left: a side shorter than the filter grows."""
        return max(height * width for own in self.sizes for height, width in own)

    def extent(self, level: int, rows: int, columns: int) -> tuple[int, int]:
        """The largest sides there are at a level (0) or below it (1)."""
        own = [sizes for sizes in self.sizes if len(sizes) > level + 1]
        return max(sizes[level + rows][0] for sizes in own), max(sizes[level + columns][1] for sizes in own)

    def part(self, rows: slice) -> Plan:
        """Some of the images."""
        return Plan(
            self.index[rows], self.table[rows], self.filters[rows], self.channels, self.sizes, self.steps
        )  # fmt: skip


@dataclass(frozen=True)
class Pyramid:
    """Room for the decompositions of a launch, a row for every shift of every plane.

    Attributes:
        between: [pairs, 2 · plan.between], what is halved along its columns: low, then high.
        approximation: [pairs, plan.area], of the level reached.
        bands: [pairs, plan.coefficients], finest level first: low-high, high-low, high-high along columns and rows.
    """

    between: Tensor
    approximation: Tensor
    bands: Tensor


def room(plan: Plan) -> Pyramid:
    """A pyramid for a plan, not filled."""
    sizes = (2 * plan.between, plan.area, plan.coefficients)
    return Pyramid(*(plan.filters.new_empty((plan.pairs, size)) for size in sizes))


def analyse(planes: Tensor, masks: Tensor, pyramid: Pyramid, plan: Plan, mirror: bool) -> None:
    """Decompose every shift of planes [M·C, H, W] float64.

    Args:
        planes: extended by reflection, edge pixels repeated, with `mirror`; otherwise by zeros, and only the coefficients
            whose `masks` are not 0 are kept.
        masks: [M·C, steps, coefficients] uint8.
        pyramid: where to write.
        plan: of the launch.
        mirror: what lies outside.
    """
    tensors = (planes, masks, pyramid, plan)
    for level in range(plan.depth):
        _launch(_analyse_down_kernel, *tensors, level, plan.extent(level, 1, 0), mirror, enable_fp_fusion=False)
        _launch(_analyse_across_kernel, *tensors, level, plan.extent(level, 1, 1), mirror, enable_fp_fusion=False)


def synthesise(planes: Tensor, masks: Tensor, pyramid: Pyramid, plan: Plan, mirror: bool) -> None:
    """The adjoint of `analyse`, to planes: the mean over the shifts, each shifted back."""
    tensors = (planes, masks, pyramid, plan)
    for level in reversed(range(plan.depth)):
        rows, columns = plan.extent(level, 1, 0)
        _launch(_synthesise_across_kernel, *tensors, level, (rows, (columns + 1) // 2), mirror)
        rows, columns = plan.extent(level, 0, 0)
        _launch(_synthesise_down_kernel, *tensors, level, ((rows + 1) // 2, columns), mirror)
    _launch(_mean_kernel, *tensors, 0, plan.side, mirror)


def _launch(
    kernel: Any, planes: Tensor, masks: Tensor, pyramid: Pyramid, plan: Plan, level: int, extent: tuple[int, int],
    mirror: bool, **options: bool,
) -> None:  # fmt: skip
    """A program for every tile of every shift of every plane, or, for the mean, of every plane."""
    down, across = triton.cdiv(extent[0], _TILE[0]), triton.cdiv(extent[1], _TILE[1])
    count = plan.pairs // (plan.steps if kernel is _mean_kernel else 1)
    with on_device(planes):
        kernel[(count * down * across,)](
            planes, pyramid.between, pyramid.approximation, pyramid.bands, masks, plan.index, plan.table, plan.filters,
            plan.channels, plan.steps, *plan.side, plan.between, plan.area, plan.coefficients, level, down, across,
            MIRROR=mirror, ROWS=_TILE[0], COLUMNS=_TILE[1], **options,
        )  # fmt: skip


@torch.library.custom_op("cannonade::noise_sigma", mutates_args=())
def noise_sigma(planes: Tensor, low: list[float], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """`estimate_sigma` of `cannonade.kernels.wavelet`, and what its backward needs, as `sigma_of_rows` returns it.

    Args:
        planes: [M, H, W].
        low: decomposition low-pass filter of four taps.
        backend: "triton".
    """
    sigma, places, slopes = sigma_of_rows(every(planes[:, None]), tuple(low))
    return sigma[:, 0], places[:, 0], slopes[:, 0]


@torch.library.custom_op("cannonade::noise_sigma_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor, places: Tensor, slopes: Tensor, planes: Tensor, low: list[float], backend: str
) -> Tensor:  # fmt: skip
    out = torch.zeros_like(planes, memory_format=torch.contiguous_format)
    add_sigma_gradient(every(out[:, None]), grad[:, None], places[:, None], slopes[:, None], tuple(low))
    return out


@noise_sigma.register_fake
def _(planes: Tensor, low: list[float], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    count = len(planes)
    places = planes.new_empty((count, 2), dtype=torch.int64)
    return planes.new_empty(count, dtype=torch.float64), places, torch.empty_like(places, dtype=torch.float64)


@_adjoint.register_fake
def _(grad: Tensor, places: Tensor, slopes: Tensor, planes: Tensor, low: list[float], backend: str) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, list[float], str], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], inputs[0])
    ctx.settings = inputs[1:]


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None


noise_sigma.register_autograd(_backward, setup_context=_keep)


def sigma_of_rows(images: Rows, low: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The estimate of every plane of images of a buffer, and what it depends on.

    Args:
        images: of a buffer.
        low: decomposition low-pass filter of four taps.

    Returns:
        sigma [M, C] float64, NaN where all coefficients are 0; the places of the lower and the upper median among the
        coefficients [M, C, 2] int64, and the slopes of sigma in those, [M, C, 2] float64, which are 0 where it is NaN.
    """
    _, channels, height, width = images.buffer.shape
    planes, (rows, columns) = len(images) * channels, sizes_of(height, width, 4, 1)[1]
    filters = bank((low,), (1,), images.buffer.device).filters
    band = filters.new_empty((planes, rows * columns))
    sigma = filters.new_empty((len(images), channels))
    slopes = filters.new_empty((len(images), channels, 2))
    places = torch.empty_like(slopes, dtype=torch.int64)
    down, across = triton.cdiv(rows, _TILE[0]), triton.cdiv(columns, _TILE[1])
    if not planes or not height * width:
        return sigma.fill_(torch.nan), places.zero_(), slopes.zero_()
    with on_device(band):
        _diagonal_kernel[(planes * down * across,)](
            band, images.buffer, images.index, filters, channels, height, width, down, across,
            ROWS=_TILE[0], COLUMNS=_TILE[1], enable_fp_fusion=False,
        )  # fmt: skip
        _median_kernel[(planes,)](
            sigma, places, slopes, band, images.index, channels, rows * columns, RUN=_RUN, num_warps=8
        )
    return sigma, places, slopes


def add_sigma_gradient(to: Rows, grad: Tensor, places: Tensor, slopes: Tensor, low: tuple[float, ...]) -> None:
    """Add to images' gradients what comes through `sigma_of_rows`, whose own gradient is [M, C] float64."""
    _, channels, height, width = to.buffer.shape
    if not len(to) or not height * width:
        return
    filters = bank((low,), (1,), to.buffer.device).filters
    with on_device(to.buffer):
        _add_gradient_kernel[(len(to) * channels,)](
            to.buffer, to.index, grad.contiguous(), places.contiguous(), slopes.contiguous(), filters, channels, height,
            width, num_warps=1,
        )  # fmt: skip


@jit
def _tile(down: tl.tensor, across: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> Any:
    """Of a program: the number of its plane, and the rows [ROWS, 1] and columns [1, COLUMNS] of what it makes."""
    number = tl.program_id(0)
    x = (number % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    y = (number // across % down) * ROWS + tl.arange(0, ROWS)[:, None]
    return (number // (across * down)).to(tl.int64), y, x


@jit
def _taps(
    index_ptr: tl.tensor, table_ptr: tl.tensor, pair: tl.tensor, channels: tl.tensor, steps: tl.tensor, level: tl.tensor
) -> Any:
    """Of a plane's wavelet; 0 where there is no such image, shift or level."""
    image = pair // steps // channels
    entry = table_ptr + image * 5
    sides = tl.load(entry + 3) + 1
    busy = (tl.load(index_ptr + image) >= 0) & (pair % steps < sides * sides) & (level < tl.load(entry + 1))
    return tl.where(busy, tl.load(entry), 0).to(tl.int32)


@jit
def _level(height: tl.tensor, width: tl.tensor, taps: tl.tensor, level: tl.tensor) -> Any:
    """Height and width of what a level is made from, and where its sub-bands begin."""
    start = 0 * taps
    height, width = height + start, width + start
    for _ in range(0, level):
        height, width = (height + taps - 1) // 2, (width + taps - 1) // 2
        start += 3 * height * width
    return height, width, start


@jit
def _shift(table_ptr: tl.tensor, pair: tl.tensor, channels: tl.tensor, steps: tl.tensor) -> Any:
    """Of a plane, by how many pixels down and to the right."""
    sides = (tl.load(table_ptr + pair // steps // channels * 5 + 3) + 1).to(tl.int32)
    number = (pair % steps).to(tl.int32)
    return number // sides, number % sides


@jit
def _reflected(place: tl.tensor, length: tl.tensor, times: tl.tensor) -> Any:
    """Each time brings a place beyond an end nearer by the length."""
    for _ in range(0, times):
        place = tl.where(place < 0, -1 - place, place)
        place = tl.where(place >= length, 2 * length - 1 - place, place)
    return place


@jit
def _analyse_down_kernel(
    planes_ptr: tl.tensor,
    between_ptr: tl.tensor,
    approximation_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    between: tl.tensor,
    area: tl.tensor,
    coefficients: tl.tensor,
    level: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    MIRROR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Σ_j taps[j]·x[2k + 1 − j] along the columns, of a plane shifted, or of what the level above left."""
    pair, k, x = _tile(down, across, ROWS, COLUMNS)
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, level)
    if taps == 0:
        return
    high, wide, _ = _level(height, width, taps, level)
    half = (high + taps - 1) // 2
    filter_ptr = filters_ptr + pair // steps // channels * 36
    own = (k < half) & (x < wide)
    shift_y, shift_x = _shift(table_ptr, pair, channels, steps)
    if level == 0:
        from_ptr = planes_ptr + pair // steps * height * width
    else:
        from_ptr = approximation_ptr + pair * area
        shift_y, shift_x = 0 * shift_y, 0 * shift_x
    shift_y, shift_x = shift_y % high, shift_x % wide
    column = tl.where(x < shift_x, x - shift_x + wide, x - shift_x)
    times = (taps - 2 + high) // high
    low_half = tl.zeros((ROWS, COLUMNS), tl.float64)
    high_half = tl.zeros((ROWS, COLUMNS), tl.float64)
    for tap in range(0, taps):
        y = 2 * k + 1 - tap
        there = own
        if MIRROR:
            y = _reflected(y, high, times)
        else:
            there = own & (y >= 0) & (y < high)
        y = tl.where(y < shift_y, y - shift_y + high, y - shift_y)
        value = tl.load(from_ptr + y * wide + column, mask=there, other=0.0)
        low_half += value * tl.load(filter_ptr + tap)
        high_half += value * tl.load(filter_ptr + 18 + tap)
    to = between_ptr + pair * (2 * between) + k * wide + x
    tl.store(to, low_half, mask=own)
    tl.store(to + half * wide, high_half, mask=own)


@jit
def _analyse_across_kernel(
    planes_ptr: tl.tensor,
    between_ptr: tl.tensor,
    approximation_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    between: tl.tensor,
    area: tl.tensor,
    coefficients: tl.tensor,
    level: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    MIRROR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The same along the rows of both halves: what is left, and three sub-bands."""
    pair, y, k = _tile(down, across, ROWS, COLUMNS)
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, level)
    if taps == 0:
        return
    high, wide, start = _level(height, width, taps, level)
    rows, half = (high + taps - 1) // 2, (wide + taps - 1) // 2
    filter_ptr = filters_ptr + pair // steps // channels * 36
    own = (y < rows) & (k < half)
    from_ptr = between_ptr + pair * (2 * between) + y * wide
    times = (taps - 2 + wide) // wide
    low_low = tl.zeros((ROWS, COLUMNS), tl.float64)
    low_high = tl.zeros((ROWS, COLUMNS), tl.float64)
    high_low = tl.zeros((ROWS, COLUMNS), tl.float64)
    high_high = tl.zeros((ROWS, COLUMNS), tl.float64)
    for tap in range(0, taps):
        x = 2 * k + 1 - tap
        there = own
        if MIRROR:
            x = _reflected(x, wide, times)
        else:
            there = own & (x >= 0) & (x < wide)
        low_value = tl.load(from_ptr + x, mask=there, other=0.0)
        high_value = tl.load(from_ptr + rows * wide + x, mask=there, other=0.0)
        a, b = tl.load(filter_ptr + tap), tl.load(filter_ptr + 18 + tap)
        low_low += low_value * a
        low_high += low_value * b
        high_low += high_value * a
        high_high += high_value * b
    place, size = y * half + k, rows * half
    at = pair * coefficients + start + place
    if not MIRROR:
        low_high = tl.where(tl.load(masks_ptr + at, mask=own, other=0) != 0, low_high, 0.0)
        high_low = tl.where(tl.load(masks_ptr + at + size, mask=own, other=0) != 0, high_low, 0.0)
        high_high = tl.where(tl.load(masks_ptr + at + 2 * size, mask=own, other=0) != 0, high_high, 0.0)
    tl.store(approximation_ptr + pair * area + place, low_low, mask=own)
    tl.store(bands_ptr + at, low_high, mask=own)
    tl.store(bands_ptr + at + size, high_low, mask=own)
    tl.store(bands_ptr + at + 2 * size, high_high, mask=own)


@jit
def _segments(length: tl.tensor, taps: tl.tensor, MIRROR: tl.constexpr) -> Any:
    """Numbers of the first copy of the line that the filters reach, 0 being itself, and of the one after the last."""
    if MIRROR:
        half = (length + taps - 1) // 2
        return -((taps - 2 + length - 1) // length), (2 * half - 1) // length + 1
    return 0 * length, 0 * length + 1


@jit
def _first(q: tl.tensor, segment: tl.tensor, length: tl.tensor) -> Any:
    """The first k that reaches places 2q and 2q + 1 in a copy of the line; odd copies run backwards."""
    return tl.where(segment % 2 == 0, segment * length // 2 + q, (segment + 1) * length // 2 - 1 - q)


@jit
def _reach(
    segment: tl.tensor, length: tl.tensor, taps: tl.tensor, first: tl.tensor, SIDE: tl.constexpr
) -> Any:  # fmt: skip
    """How many pairs of taps have anything to do with the copy of this program's places; all or none."""
    one, other = _first(first, segment, length), _first(first + SIDE - 1, segment, length)
    half = (length + taps - 1) // 2
    reached = (tl.maximum(one, other) + taps // 2 > 0) & (tl.minimum(one, other) < half)
    return tl.where(reached, taps // 2, 0)


@jit
def _synthesise_across_kernel(
    planes_ptr: tl.tensor,
    between_ptr: tl.tensor,
    approximation_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    between: tl.tensor,
    area: tl.tensor,
    coefficients: tl.tensor,
    level: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    MIRROR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The adjoint of `_analyse_across_kernel`: two neighbours of a row have the same coefficients, by other taps."""
    pair, y, q = _tile(down, across, ROWS, COLUMNS)
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, level)
    if taps == 0:
        return
    high, wide, start = _level(height, width, taps, level)
    rows, half = (high + taps - 1) // 2, (wide + taps - 1) // 2
    filter_ptr = filters_ptr + pair // steps // channels * 36
    approximate_ptr = approximation_ptr + pair * area + y * half
    band_ptr = bands_ptr + pair * coefficients + start + y * half
    size = rows * half
    left = (tl.program_id(0) % across) * COLUMNS
    low_even = tl.zeros((ROWS, COLUMNS), tl.float64)
    low_odd = tl.zeros((ROWS, COLUMNS), tl.float64)
    high_even = tl.zeros((ROWS, COLUMNS), tl.float64)
    high_odd = tl.zeros((ROWS, COLUMNS), tl.float64)
    segment, end = _segments(wide, taps, MIRROR)
    while segment < end:
        turned = segment & 1
        for step in range(0, _reach(segment, wide, taps, left, COLUMNS)):
            k = _first(q, segment, wide) + step
            there = (y < rows) & (k >= 0) & (k < half)
            low_low = tl.load(approximate_ptr + k, mask=there, other=0.0)
            low_high = tl.load(band_ptr + k, mask=there, other=0.0)
            high_low = tl.load(band_ptr + size + k, mask=there, other=0.0)
            high_high = tl.load(band_ptr + 2 * size + k, mask=there, other=0.0)
            even, odd = 2 * step + 1 - turned, 2 * step + turned
            a, b = tl.load(filter_ptr + even), tl.load(filter_ptr + 18 + even)
            low_even += low_low * a + low_high * b
            high_even += high_low * a + high_high * b
            a, b = tl.load(filter_ptr + odd), tl.load(filter_ptr + 18 + odd)
            low_odd += low_low * a + low_high * b
            high_odd += high_low * a + high_high * b
        segment += 1
    x = 2 * left + tl.arange(0, 2 * COLUMNS)[None, :]
    to = between_ptr + pair * (2 * between) + y * wide + x
    tl.store(to, tl.interleave(low_even, low_odd), mask=(y < rows) & (x < wide))
    tl.store(to + rows * wide, tl.interleave(high_even, high_odd), mask=(y < rows) & (x < wide))


@jit
def _synthesise_down_kernel(
    planes_ptr: tl.tensor,
    between_ptr: tl.tensor,
    approximation_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    between: tl.tensor,
    area: tl.tensor,
    coefficients: tl.tensor,
    level: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    MIRROR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The adjoint of `_analyse_down_kernel`, two neighbours of a column at a time."""
    pair, q, x = _tile(down, across, ROWS, COLUMNS)
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, level)
    if taps == 0:
        return
    high, wide, _ = _level(height, width, taps, level)
    half = (high + taps - 1) // 2
    filter_ptr = filters_ptr + pair // steps // channels * 36
    from_ptr = between_ptr + pair * (2 * between) + x
    top = (tl.program_id(0) // across % down) * ROWS
    even_rows = tl.zeros((ROWS, COLUMNS), tl.float64)
    odd_rows = tl.zeros((ROWS, COLUMNS), tl.float64)
    segment, end = _segments(high, taps, MIRROR)
    while segment < end:
        turned = segment & 1
        for step in range(0, _reach(segment, high, taps, top, ROWS)):
            k = _first(q, segment, high) + step
            there = (x < wide) & (k >= 0) & (k < half)
            low_value = tl.load(from_ptr + k * wide, mask=there, other=0.0)
            high_value = tl.load(from_ptr + (half + k) * wide, mask=there, other=0.0)
            even, odd = 2 * step + 1 - turned, 2 * step + turned
            even_rows += low_value * tl.load(filter_ptr + even) + high_value * tl.load(filter_ptr + 18 + even)
            odd_rows += low_value * tl.load(filter_ptr + odd) + high_value * tl.load(filter_ptr + 18 + odd)
        segment += 1
    to = approximation_ptr + pair * area + 2 * q * wide + x
    tl.store(to, even_rows, mask=(2 * q < high) & (x < wide))
    tl.store(to + wide, odd_rows, mask=(2 * q + 1 < high) & (x < wide))


@jit
def _mean_kernel(
    planes_ptr: tl.tensor,
    between_ptr: tl.tensor,
    approximation_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    between: tl.tensor,
    area: tl.tensor,
    coefficients: tl.tensor,
    level: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    MIRROR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The mean over a plane's shifts, each shifted back."""
    plane, y, x = _tile(down, across, ROWS, COLUMNS)
    if tl.load(index_ptr + plane // channels) < 0:
        return
    own = (y < height) & (x < width)
    sides = (tl.load(table_ptr + plane // channels * 5 + 3) + 1).to(tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for shift in range(0, sides * sides):
        row, column = y + shift // sides % height, x + shift % sides % width
        row, column = tl.where(row < height, row, row - height), tl.where(column < width, column, column - width)
        from_ptr = approximation_ptr + (plane * steps + shift) * area
        total += tl.load(from_ptr + row * width + column, mask=own, other=0.0)
    tl.store(planes_ptr + plane * height * width + y * width + x, total / (sides * sides).to(tl.float64), mask=own)


@jit
def _magnitudes(band_ptr: tl.tensor, place: tl.tensor, size: tl.tensor) -> Any:
    """As the integers of their bits, which are in the order of the values."""
    return tl.abs(tl.load(band_ptr + place, mask=place < size, other=0.0)).to(tl.int64, bitcast=True)


@jit
def _split(band_ptr: tl.tensor, level: tl.tensor, size: tl.tensor, RUN: tl.constexpr) -> Any:
    """How many magnitudes are at most `level` and not 0, the greatest of those, and the least of those above."""
    count = tl.zeros((RUN,), tl.int32)
    most = tl.zeros((RUN,), tl.int64)
    least = tl.full((RUN,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    for first in range(0, size, RUN):
        bits = _magnitudes(band_ptr, first + tl.arange(0, RUN), size)
        low = bits <= level
        count += (low & (bits > 0)).to(tl.int32)
        most = tl.maximum(most, tl.where(low, bits, 0))
        least = tl.minimum(least, tl.where(low, 0x7FFFFFFFFFFFFFFF, bits))
    return tl.sum(count, 0), tl.max(most, 0), tl.min(least, 0)


@jit
def _medians(band_ptr: tl.tensor, size: tl.tensor, RUN: tl.constexpr) -> Any:
    """The bits of the lower and of the upper median of the magnitudes that are not 0, and how many there are.

    Bisection over the bits, whose ends move on to the next magnitude inwards: it ends after 63 steps at most, and after
    about 20 for the coefficients of a photo.
    """
    count, high, _ = _split(band_ptr, tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64), size, RUN)
    low = tl.minimum(high, 1)
    while low < high:
        level = low + (high - low) // 2
        at_most, most, least = _split(band_ptr, level, size, RUN)
        enough = 2 * at_most >= count
        high = tl.where(enough, most, high)
        low = tl.where(enough, low, least)
    at_most, _, least = _split(band_ptr, low, size, RUN)
    return low, tl.where(at_most > count // 2, low, least), count


@jit
def _sigma(lower: tl.tensor, upper: tl.tensor, count: tl.tensor) -> Any:
    """From the medians: their mean over the third quartile of the standard normal."""
    mean = (lower.to(tl.float64, bitcast=True) + upper.to(tl.float64, bitcast=True)) / 2
    return tl.where(count > 0, mean / 0.6744897501960817, float("nan"))


@jit
def _diagonal_kernel(
    band_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    down: tl.tensor,
    across: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The finest high-high sub-band of four taps, each coefficient from its sixteen pixels, columns first."""
    plane, row, column = _tile(down, across, ROWS, COLUMNS)
    if tl.load(images_index_ptr + plane // channels) < 0:
        return
    rows, columns = (height + 3) // 2, (width + 3) // 2
    own = (row < rows) & (column < columns)
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    for right in tl.static_range(4):
        x = _reflected(2 * column + 1 - right, width, 3)
        part = tl.zeros((ROWS, COLUMNS), tl.float64)
        for below in tl.static_range(4):
            y = _reflected(2 * row + 1 - below, height, 3)
            value = tl.load(from_ptr + y * width + x, mask=own, other=0.0).to(tl.float64)
            part += value * tl.load(filters_ptr + 18 + below)
        total += part * tl.load(filters_ptr + 18 + right)
    tl.store(band_ptr + plane * rows * columns + row * columns + column, total, mask=own)


@jit
def _median_kernel(
    sigma_ptr: tl.tensor,
    places_ptr: tl.tensor,
    slopes_ptr: tl.tensor,
    band_ptr: tl.tensor,
    index_ptr: tl.tensor,
    channels: tl.tensor,
    size: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """The estimate from a plane's coefficients, and which it is; of equal ones the first."""
    plane = tl.program_id(0).to(tl.int64)
    if tl.load(index_ptr + plane // channels) < 0:
        return
    own_ptr = band_ptr + plane * size
    lower, upper, count = _medians(own_ptr, size, RUN)
    lower_place, upper_place = size + 0 * count, size + 0 * count
    for first in range(0, size, RUN):
        place = first + tl.arange(0, RUN)
        bits = _magnitudes(own_ptr, place, size)
        lower_place = tl.minimum(lower_place, tl.min(tl.where(bits == lower, place, size), 0))
        upper_place = tl.minimum(upper_place, tl.min(tl.where(bits == upper, place, size), 0))
    tl.store(sigma_ptr + plane, _sigma(lower, upper, count))
    for part in tl.static_range(2):
        place = tl.minimum(upper_place if part else lower_place, size - 1)
        value = tl.load(own_ptr + place)
        share = tl.full((), 0.5, tl.float64) / 0.6744897501960817
        slope = tl.where(value < 0, -share, share)
        tl.store(places_ptr + 2 * plane + part, place.to(tl.int64))
        tl.store(slopes_ptr + 2 * plane + part, tl.where(count > 0, slope, 0.0))


@jit
def _add_gradient_kernel(
    to_ptr: tl.tensor,
    to_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    places_ptr: tl.tensor,
    slopes_ptr: tl.tensor,
    filters_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> None:
    """Of the 32 pixels under two coefficients, each of which may occur several times, the first adds for all."""
    plane = tl.program_id(0).to(tl.int64)
    if tl.load(to_index_ptr + plane // channels) < 0:
        return
    number = tl.arange(0, 32)
    part, below, right = number // 16, number // 4 % 4, number % 4
    columns = (width + 3) // 2
    slope = tl.load(slopes_ptr + 2 * plane + part)
    place = tl.load(places_ptr + 2 * plane + part, mask=slope != 0, other=0).to(tl.int32)
    y = _reflected(2 * (place // columns) + 1 - below, height, 3)
    x = _reflected(2 * (place % columns) + 1 - right, width, 3)
    pixel = y * width + x
    weight = tl.load(filters_ptr + 18 + below) * tl.load(filters_ptr + 18 + right)
    change = tl.where(slope != 0, weight * slope * tl.load(grad_ptr + plane), 0.0)
    # The 32 numbers once more, along the other axis.
    other = tl.arange(0, 32)[:, None]
    same = tl.reshape(pixel, (1, 32)) == tl.trans(tl.reshape(pixel, (1, 32)))
    total = tl.sum(tl.where(same, tl.trans(tl.reshape(change, (1, 32))), 0.0), 0)
    is_first = tl.min(tl.where(same, other, 32), 0) == number
    own_ptr = to_ptr + _start(to_index_ptr, plane, channels, height * width) + pixel
    mask = is_first & (slope != 0)
    value = tl.load(own_ptr, mask=mask, other=0.0).to(tl.float64) + total
    tl.store(own_ptr, value.to(tl.float32).to(to_ptr.dtype.element_ty), mask=mask)


_SIZES = ("channels", "steps", "height", "width", "between", "area", "coefficients", "level", "down", "across")
# Of the finest level, for three channels with four shifts each: a value is 8 bytes, and 18 taps of two filters make 36
# products and as many sums for two values. Operations count twice, because an H100 does half as many in float64; cards
# for graphics do a sixty-fourth.
_VALUE = 12 * 8.0
_FILTERING = 12 * 2 * 36.0


def _case(name: str, kernel: Any, mirror: bool, moved: float, operations: float, fusion: bool = True) -> Case:
    pointers = dict.fromkeys(("planes_ptr", "between_ptr", "approximation_ptr", "bands_ptr"), "*fp64")
    return Case(
        name=name,
        kernel=kernel,
        types=pointers
        | {"masks_ptr": "*u8", "index_ptr": "*i64", "table_ptr": "*i64", "filters_ptr": "*fp64"}
        | dict.fromkeys(_SIZES, "i32"),
        constants={"MIRROR": mirror, "ROWS": _TILE[0], "COLUMNS": _TILE[1]},
        aligned=("height", "width"),
        fusion=fusion,
        bytes_per_pixel=moved,
        least_bytes=moved,
        operations=operations,
    )


CASES = (
    _case("wavelet analysis down", _analyse_down_kernel, True, 2 * _VALUE, _FILTERING, fusion=False),
    _case("wavelet analysis across", _analyse_across_kernel, True, 2 * _VALUE, _FILTERING, fusion=False),
    _case("wavelet synthesis adjoint down", _analyse_down_kernel, False, 2 * _VALUE, _FILTERING, fusion=False),
    _case("wavelet synthesis adjoint across", _analyse_across_kernel, False, 2 * _VALUE + 9, _FILTERING, fusion=False),
    _case("wavelet synthesis across", _synthesise_across_kernel, False, 2 * _VALUE, _FILTERING),
    _case("wavelet synthesis down", _synthesise_down_kernel, False, 2 * _VALUE, _FILTERING),
    _case("wavelet analysis adjoint across", _synthesise_across_kernel, True, 2 * _VALUE, _FILTERING),
    _case("wavelet analysis adjoint down", _synthesise_down_kernel, True, 2 * _VALUE, _FILTERING),
    _case("wavelet mean over shifts", _mean_kernel, False, _VALUE + 24, 0),
    Case(
        name="noise coefficients",
        kernel=_diagonal_kernel,
        types={"band_ptr": "*fp64", "images_ptr": "*fp32", "images_index_ptr": "*i64", "filters_ptr": "*fp64"}
        | dict.fromkeys(("channels", "height", "width", "down", "across"), "i32"),
        constants={"ROWS": _TILE[0], "COLUMNS": _TILE[1]},
        aligned=("height", "width"),
        fusion=False,
        bytes_per_pixel=18,
        least_bytes=18,
        operations=3 * 2 * 10,  # 20 products and as many sums, counted twice, for a quarter of the pixels
    ),
    Case(
        name="noise medians",
        kernel=_median_kernel,
        types={
            "sigma_ptr": "*fp64",
            "places_ptr": "*i64",
            "slopes_ptr": "*fp64",
            "band_ptr": "*fp64",
            "index_ptr": "*i64",
        }
        | {"channels": "i32", "size": "i32"},
        constants={"RUN": _RUN},
        warps=8,
        bytes_per_pixel=6,
        least_bytes=6,
        operations=3 * 0.25 * 22 * 12,  # some twenty passes over the coefficients, which stay in the cache
    ),
    Case(
        name="noise gradient",
        kernel=_add_gradient_kernel,
        types={
            "to_ptr": "*fp32",
            "to_index_ptr": "*i64",
            "grad_ptr": "*fp64",
            "places_ptr": "*i64",
            "slopes_ptr": "*fp64",
        }
        | {"filters_ptr": "*fp64", "channels": "i32", "height": "i32", "width": "i32"},
        aligned=("height", "width"),
        warps=1,
        bytes_per_pixel=0.02,  # 32 pixels of a plane
        least_bytes=0.02,
    ),
)
