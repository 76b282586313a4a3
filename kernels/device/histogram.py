"""Histogram equalisation and percentile stretching by native code and by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.blur import _start
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

# A spread below float32's rounding step at 1 is no contrast: stretching it would make a picture of rounding noise.
LEAST_SPREAD = 2.0**-24

_RUN = 4096  # pixels of a plane that its one program takes at once
_TILE = 1024  # pixels of a program where a plane has many
_BINS = 256  # bins that are counted at once; a plane is read again for more


@torch.library.custom_op("cannonade::equalise", mutates_args=())
def equalised_by_shares(planes: Tensor, bins: Tensor, size: int, backend: str) -> tuple[Tensor, Tensor]:
    """Equalised planes [P, H, W], and the distribution [P, size] float32 of each; bins [P] int64, at most size."""
    planes = planes.contiguous()
    if backend == "triton":
        out = torch.empty_like(planes)
        return out, equalise_into(_rows(out), _rows(planes), bins[:, None], size).flatten(0, 1)
    out, shares = _with_shares(planes, size)
    native.run("equalise", out, shares, planes, bins.contiguous(), size, *_sizes(planes))
    return out, shares


@torch.library.custom_op("cannonade::equalise_adjoint", mutates_args=())
def _equalise_adjoint(grad: Tensor, shares: Tensor, planes: Tensor, bins: Tensor, backend: str) -> Tensor:
    grad, planes = grad.contiguous(), planes.contiguous()
    out = torch.empty_like(planes)
    if backend == "triton":
        equalise_adjoint_into(_rows(out), _rows(grad), _rows(planes), bins[:, None], shares[:, None])
        return out
    arguments = (grad, shares, planes, bins.contiguous(), shares.shape[1])
    native.run("equalise_adjoint", out, *arguments, *_sizes(planes))
    return out


@torch.library.custom_op("cannonade::stretch", mutates_args=())
def stretched_by_percentiles(planes: Tensor, low: Tensor, high: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Stretched planes [P, H, W], and what backward needs; low and high [P] float64.

    Returns:
        The planes; places [P, 4] int64 of the values that the percentiles lie between; numbers [P, 4] float32: the lower
        percentile, the spread, and how far each percentile is from the first of its two values to the second.
    """
    planes = planes.contiguous()
    if backend == "triton":
        out = torch.empty_like(planes)
        places, numbers = stretch_into(_rows(out), _rows(planes), low[:, None], high[:, None])
        return out, places.flatten(0, 1), numbers.flatten(0, 1)
    out, places, numbers = _with_places(planes)
    native.run("stretch", out, places, numbers, planes, low.contiguous(), high.contiguous(), *_sizes(planes))
    return out, places, numbers


@torch.library.custom_op("cannonade::stretch_adjoint", mutates_args=())
def _stretch_adjoint(grad: Tensor, places: Tensor, numbers: Tensor, planes: Tensor, backend: str) -> Tensor:
    grad, planes = grad.contiguous(), planes.contiguous()
    out = torch.empty_like(planes)
    if backend == "triton":
        stretch_adjoint_into(_rows(out), _rows(grad), _rows(planes), places[:, None], numbers[:, None])
    else:
        native.run("stretch_adjoint", out, grad, places, numbers, planes, *_sizes(planes))
    return out


def _rows(planes: Tensor) -> Rows:
    """Planes [P, H, W] as images of one channel."""
    return every(planes[:, None])


def _sizes(planes: Tensor) -> tuple[int, int]:
    return len(planes), planes.shape[1:].numel()


def _like(planes: Tensor) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


def _with_shares(planes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _like(planes), planes.new_zeros((planes.shape[0], size), dtype=torch.float32)


def _with_places(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    places = planes.new_empty((planes.shape[0], 4), dtype=torch.int64)
    return _like(planes), places, torch.empty_like(places, dtype=torch.float32)


@equalised_by_shares.register_fake
def _(planes: Tensor, bins: Tensor, size: int, backend: str) -> tuple[Tensor, Tensor]:
    return _with_shares(planes, size)


@_equalise_adjoint.register_fake
def _(grad: Tensor, shares: Tensor, planes: Tensor, bins: Tensor, backend: str) -> Tensor:
    return _like(planes)


@stretched_by_percentiles.register_fake
def _(planes: Tensor, low: Tensor, high: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _with_places(planes)


@_stretch_adjoint.register_fake
def _(grad: Tensor, places: Tensor, numbers: Tensor, planes: Tensor, backend: str) -> Tensor:
    return _like(planes)


def _keep_shares(ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:2])
    ctx.backend = inputs[3]


def _equalise_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _equalise_adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None


def _keep_places(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], inputs[0])
    ctx.backend = inputs[3]


def _stretch_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _stretch_adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None


equalised_by_shares.register_autograd(_equalise_backward, setup_context=_keep_shares)
stretched_by_percentiles.register_autograd(_stretch_backward, setup_context=_keep_places)


def equalise_into(out: Rows, images: Rows, bins: Tensor, size: int) -> Tensor:
    """Equalise the planes of images of a buffer; returns their distributions [M, C, size] float32.

    Args:
        out, images: of a buffer each.
        bins: [M, C] int64, a row for each image of the launch; at most size.
        size: the most bins a plane may have.
    """
    bins = bins.contiguous()
    shares = _numbers(images, size)
    ends = _numbers(images, 2)
    _by_plane(
        _distribute_kernel, shares, ends, out.index, images.buffer, images.index, bins,
        like=images, size=size, RUN=_RUN, BINS=_BINS, num_warps=8,
    )  # fmt: skip
    _by_tile(_equalise_kernel, out, images, shares, ends, bins, size=size)
    return shares


def equalise_adjoint_into(out: Rows, grad: Rows, images: Rows, bins: Tensor, shares: Tensor) -> None:
    """The gradient of `equalise_into` at these images, with the distributions that it returned."""
    bins, size = bins.contiguous(), shares.shape[2]
    totals = _numbers(images, 4)
    _by_plane(
        _equalise_totals_kernel, totals, out.index, grad.buffer, grad.index, images.buffer, images.index, shares, bins,
        like=images, size=size, LEAST=LEAST_SPREAD, RUN=_RUN, num_warps=8,
    )  # fmt: skip
    _by_tile(_equalise_pull_kernel, out, grad, images.buffer, images.index, shares, totals, bins, size=size)


def stretch_into(out: Rows, images: Rows, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch the planes of images of a buffer; low and high [M, C], a row for each image of the launch.

    Returns:
        Places [M, C, 4] int64 and numbers [M, C, 4] float32, as `stretched_by_percentiles` has them.
    """
    numbers = _numbers(images, 4)
    places = torch.empty_like(numbers, dtype=torch.int64)
    shares = low.double().contiguous(), high.double().contiguous()
    _by_plane(
        _percentiles_kernel, places, numbers, out.index, images.buffer, images.index, *shares,
        like=images, RUN=_RUN, num_warps=8,
    )  # fmt: skip
    _by_tile(_stretch_kernel, out, images, numbers)
    return places, numbers


def stretch_adjoint_into(out: Rows, grad: Rows, images: Rows, places: Tensor, numbers: Tensor) -> None:
    """The gradient of `stretch_into` at these images, with what it returned."""
    totals = _numbers(images, 2)
    _by_plane(
        _stretch_totals_kernel, totals, out.index, grad.buffer, grad.index, images.buffer, images.index, numbers,
        like=images, LEAST=LEAST_SPREAD, RUN=_RUN, num_warps=8,
    )  # fmt: skip
    _by_tile(_stretch_pull_kernel, out, grad, images.buffer, images.index, places, numbers, totals)


def _numbers(images: Rows, count: int) -> Tensor:
    """Room for `count` float32 numbers of every plane of a launch."""
    return images.buffer.new_empty((len(images), images.buffer.shape[1], count), dtype=torch.float32)


def _by_plane(kernel: Any, *arguments: Tensor, like: Rows, **settings: float) -> None:
    """A program for every plane of a launch."""
    _, channels, height, width = like.buffer.shape
    if len(like) * channels * height * width:
        with on_device(like.buffer):
            kernel[(len(like) * channels,)](*arguments, channels=channels, pixels=height * width, **settings)


def _by_tile(kernel: Any, out: Rows, images: Rows, *arguments: Tensor, **settings: float) -> None:
    """A program for every run of pixels of every plane."""
    _, channels, height, width = out.buffer.shape
    grid = (len(out) * channels * triton.cdiv(height * width, _TILE),)
    if grid[0]:
        with on_device(out.buffer):
            kernel[grid](
                out.buffer, out.index, images.buffer, images.index, *arguments,
                channels=channels, pixels=height * width, **settings, LEAST=LEAST_SPREAD, TILE=_TILE,
            )  # fmt: skip


@jit
def _run_of(pixels: tl.tensor, TILE: tl.constexpr) -> Any:
    """Of a program: its plane, its pixels, and which of them exist."""
    tiles = tl.cdiv(pixels, TILE)
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    return tl.program_id(0) // tiles, pixel, pixel < pixels


@jit
def _ends_of(from_ptr: tl.tensor, pixels: tl.tensor, RUN: tl.constexpr) -> Any:
    """The least and the greatest value of a plane."""
    least = tl.full((RUN,), float("inf"), tl.float32)
    most = tl.full((RUN,), float("-inf"), tl.float32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        least = tl.minimum(least, tl.where(own, value, float("inf")))
        most = tl.maximum(most, tl.where(own, value, float("-inf")))
    return tl.min(least, 0), tl.max(most, 0)


@jit
def _bin(value: tl.tensor, low: tl.tensor, high: tl.tensor, bins: tl.tensor) -> Any:
    """The bin of each value as the reference finds it: the edges decide, in float64."""
    wide, least = value.to(tl.float64), low.to(tl.float64)
    spread = high.to(tl.float64) - least
    width = spread / bins.to(tl.float64)
    scale = bins.to(tl.float64) / tl.where(spread > 0, spread, 1.0)
    index = ((wide - least) * scale - 1e-9).to(tl.int32)
    # The product is rounded by itself: the maximum keeps the compiler from making one operation of it and the sum.
    edge = tl.maximum((index + 1).to(tl.float64) * width, 0.0) + least
    return tl.minimum(tl.where(wide >= edge, index + 1, index), bins - 1)


@jit
def _distribute_kernel(
    shares_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    size: tl.tensor,
    RUN: tl.constexpr,
    BINS: tl.constexpr,
) -> None:
    """The ends of a plane, and the share of its values in each bin and those below."""
    plane = tl.program_id(0)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    low, high = _ends_of(from_ptr, pixels, RUN)
    tl.store(ends_ptr + 2 * plane, low)
    tl.store(ends_ptr + 2 * plane + 1, high)
    bins = tl.load(bins_ptr + plane).to(tl.int32)
    below = 0
    for block in range(0, size, BINS):
        counts = tl.zeros((BINS,), tl.int32)
        for first in range(0, pixels, RUN):
            pixel = first + tl.arange(0, RUN)
            own = pixel < pixels
            value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
            index = _bin(value, low, high, bins) - block
            own &= (index >= 0) & (index < BINS)
            counts += tl.histogram(tl.where(own, index, 0), BINS, mask=own)
        reached = (tl.cumsum(counts, 0) + below).to(tl.float64)
        share = (reached / pixels.to(tl.float64)).to(tl.float32)
        bin = block + tl.arange(0, BINS)
        tl.store(shares_ptr + plane.to(tl.int64) * size + bin, share, mask=bin < size)
        below += tl.sum(counts, 0)


@jit
def _between(value: tl.tensor, low: tl.tensor, scale: tl.tensor, bins: tl.tensor) -> Any:
    """The first of the two bins between whose centres each value lies, and how far it is beyond that one's."""
    place = (value - low) * scale - 0.5
    index = tl.minimum(tl.maximum(place.to(tl.int32), 0), bins - 2)
    return index, place - index.to(tl.float32)


@jit
def _equalise_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    shares_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    size: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    plane, pixel, own = _run_of(pixels, TILE)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
    low, high = tl.load(ends_ptr + 2 * plane), tl.load(ends_ptr + 2 * plane + 1)
    bins = tl.load(bins_ptr + plane).to(tl.int32)
    spread = tl.broadcast_to(high - low, value.shape)
    varies = spread >= LEAST
    scale = tl.div_rn(bins.to(tl.float32), tl.where(varies, spread, 1.0))
    index, beyond = _between(value, low, scale, bins)
    own_ptr = shares_ptr + plane.to(tl.int64) * size + index
    below = tl.load(own_ptr, mask=own & varies, other=0.0)
    step = tl.load(own_ptr + 1, mask=own & varies, other=0.0) - below
    share = tl.minimum(below + tl.minimum(tl.maximum(beyond, 0.0), 1.0) * step, 1.0)
    result = tl.where(varies, share, value)
    to = out_ptr + _start(out_index_ptr, plane, channels, pixels) + pixel
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _slope_of(
    grad: tl.tensor,
    value: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    bins: tl.tensor,
    own_ptr: tl.tensor,
    own: tl.tensor,
) -> Any:
    """What reaches each value's place among the bins."""
    index, beyond = _between(value, low, scale, bins)
    step = tl.load(own_ptr + index + 1, mask=own, other=0.0) - tl.load(own_ptr + index, mask=own, other=0.0)
    return tl.where(own & (beyond >= 0.0) & (beyond <= 1.0), grad * step, 0.0)


@jit
def _equalise_totals_kernel(
    totals_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    shares_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    size: tl.tensor,
    LEAST: tl.constexpr,
    RUN: tl.constexpr,
) -> None:
    """The ends of a plane, and what reaches each of the values at either."""
    plane = tl.program_id(0)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    own_grad_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, pixels)
    own_ptr = shares_ptr + plane.to(tl.int64) * size
    low, high = _ends_of(from_ptr, pixels, RUN)
    bins = tl.load(bins_ptr + plane).to(tl.int32)
    spread = tl.where(high - low >= LEAST, high - low, 1.0)
    scale = tl.div_rn(bins.to(tl.float32), spread)
    to_place, to_scale = tl.zeros((RUN,), tl.float32), tl.zeros((RUN,), tl.float32)
    lows, highs = tl.zeros((RUN,), tl.int32), tl.zeros((RUN,), tl.int32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        grad = tl.load(own_grad_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        slope = _slope_of(grad, value, low, scale, bins, own_ptr, own)
        to_place += slope
        to_scale += slope * (value - low)
        lows += (own & (value == low)).to(tl.int32)
        highs += (own & (value == high)).to(tl.int32)
    to_spread = -tl.div_rn(tl.sum(to_scale, 0) * scale, spread)
    to_low = -tl.sum(to_place, 0) * scale - to_spread
    tl.store(totals_ptr + 4 * plane, low)
    tl.store(totals_ptr + 4 * plane + 1, high)
    tl.store(totals_ptr + 4 * plane + 2, tl.div_rn(to_low, tl.sum(lows, 0).to(tl.float32)))
    tl.store(totals_ptr + 4 * plane + 3, tl.div_rn(to_spread, tl.sum(highs, 0).to(tl.float32)))


@jit
def _equalise_pull_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    shares_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    size: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    plane, pixel, own = _run_of(pixels, TILE)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    value_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels) + pixel
    own_grad_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, pixels) + pixel
    value = tl.load(value_ptr, mask=own, other=0.0).to(tl.float32)
    grad = tl.load(own_grad_ptr, mask=own, other=0.0).to(tl.float32)
    low, high = tl.load(totals_ptr + 4 * plane), tl.load(totals_ptr + 4 * plane + 1)
    bins = tl.load(bins_ptr + plane).to(tl.int32)
    spread = tl.broadcast_to(high - low, value.shape)
    varies = spread >= LEAST
    scale = tl.div_rn(bins.to(tl.float32), tl.where(varies, spread, 1.0))
    own_ptr = shares_ptr + plane.to(tl.int64) * size
    result = _slope_of(grad, value, low, scale, bins, own_ptr, own & varies) * scale
    result += tl.where(value == low, tl.load(totals_ptr + 4 * plane + 2), 0.0)
    result += tl.where(value == high, tl.load(totals_ptr + 4 * plane + 3), 0.0)
    result = tl.where(varies, result, grad)
    to = out_ptr + _start(out_index_ptr, plane, channels, pixels) + pixel
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _key(value: tl.tensor) -> Any:
    """Whole numbers in the order of float32 values, both zeros the same."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@jit
def _value_of(key: tl.tensor) -> Any:
    """The value of a key, which is given as int32."""
    return tl.where(key < 0, key ^ -2147483648, ~key).to(tl.float32, bitcast=True)


@jit
def _counted(key: tl.tensor, own: tl.tensor, known: tl.tensor, shift: tl.tensor) -> Any:
    """How often each next digit, of 8 bits, occurs in the keys that begin with the known ones."""
    rest = key >> shift.to(tl.uint32)
    own &= (rest >> 8).to(tl.int32, bitcast=True) == known
    return tl.histogram((rest & 255).to(tl.int32), 256, mask=own)


@jit
def _next_digit(counts: tl.tensor, rank: tl.tensor) -> Any:
    """The digit of the key of a rank, and its rank among the keys with that digit."""
    reached = tl.cumsum(counts, 0)
    passed = reached <= rank
    return tl.sum(passed.to(tl.int32), 0), rank - tl.max(tl.where(passed, reached, 0), 0)


@jit
def _place_of(share: tl.tensor, pixels: tl.tensor) -> Any:
    """The first of the two ranks that a share lies between, and how far it is from it to the second."""
    # The product is rounded by itself: the maximum keeps the compiler from making one operation of it and the difference.
    place = tl.maximum(share * (pixels - 1).to(tl.float64), 0.0)
    rank = tl.maximum(tl.minimum(place.to(tl.int32), pixels - 2), 0)
    return rank, (place - rank.to(tl.float64)).to(tl.float32)


@jit
def _percentiles_kernel(
    places_ptr: tl.tensor,
    numbers_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    low_ptr: tl.tensor,
    high_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """The two percentiles of a plane: four passes find a value of each digit by digit, a fifth the next one."""
    plane = tl.program_id(0)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    low_rank, low_fraction = _place_of(tl.load(low_ptr + plane), pixels)
    high_rank, high_fraction = _place_of(1.0 - tl.load(high_ptr + plane), pixels)  # from the greatest down
    low_key, high_key = 0, 0
    low_left, high_left = low_rank, pixels - 1 - high_rank
    for digit in range(4):
        shift = 24 - 8 * digit
        low_counts, high_counts = tl.zeros((256,), tl.int32), tl.zeros((256,), tl.int32)
        for first in range(0, pixels, RUN):
            pixel = first + tl.arange(0, RUN)
            own = pixel < pixels
            key = _key(tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32))
            low_counts += _counted(key, own, low_key, shift)
            high_counts += _counted(key, own, high_key, shift)
        low_digit, low_left = _next_digit(low_counts, low_left)
        high_digit, high_left = _next_digit(high_counts, high_left)
        low_key, high_key = (low_key << 8) | low_digit, (high_key << 8) | high_digit
    low, high = _value_of(low_key), _value_of(high_key)
    above, below = tl.full((RUN,), float("inf"), tl.float32), tl.full((RUN,), float("-inf"), tl.float32)
    up_to_low, from_high = tl.zeros((RUN,), tl.int32), tl.zeros((RUN,), tl.int32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        up_to_low += (own & (value <= low)).to(tl.int32)
        from_high += (own & (value >= high)).to(tl.int32)
        above = tl.minimum(above, tl.where(own & (value > low), value, float("inf")))
        below = tl.maximum(below, tl.where(own & (value < high), value, float("-inf")))
    alone = pixels == 1
    next_low = tl.where(alone | (tl.sum(up_to_low, 0) >= low_rank + 2), low, tl.min(above, 0))
    next_high = tl.where(alone | (tl.sum(from_high, 0) >= high_rank + 2), high, tl.max(below, 0))
    floor = low + (next_low - low) * low_fraction
    ceiling = high + (next_high - high) * high_fraction
    tl.store(numbers_ptr + 4 * plane, floor)
    tl.store(numbers_ptr + 4 * plane + 1, ceiling - floor)
    tl.store(numbers_ptr + 4 * plane + 2, low_fraction)
    tl.store(numbers_ptr + 4 * plane + 3, high_fraction)
    _store_places(places_ptr + 4 * plane, from_ptr, pixels, low, next_low, high, next_high, RUN)


@jit
def _store_places(
    places_ptr: tl.tensor,
    from_ptr: tl.tensor,
    pixels: tl.tensor,
    low: tl.tensor,
    next_low: tl.tensor,
    high: tl.tensor,
    next_high: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """Where each of four values is first in a plane."""
    first_low, first_next_low = tl.full((RUN,), 2147483647, tl.int32), tl.full((RUN,), 2147483647, tl.int32)
    first_high, first_next_high = tl.full((RUN,), 2147483647, tl.int32), tl.full((RUN,), 2147483647, tl.int32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        first_low = tl.minimum(first_low, tl.where(own & (value == low), pixel, 2147483647))
        first_next_low = tl.minimum(first_next_low, tl.where(own & (value == next_low), pixel, 2147483647))
        first_high = tl.minimum(first_high, tl.where(own & (value == high), pixel, 2147483647))
        first_next_high = tl.minimum(first_next_high, tl.where(own & (value == next_high), pixel, 2147483647))
    tl.store(places_ptr, tl.min(first_low, 0).to(tl.int64))
    tl.store(places_ptr + 1, tl.min(first_next_low, 0).to(tl.int64))
    tl.store(places_ptr + 2, tl.min(first_high, 0).to(tl.int64))
    tl.store(places_ptr + 3, tl.min(first_next_high, 0).to(tl.int64))


@jit
def _stretch_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    numbers_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    plane, pixel, own = _run_of(pixels, TILE)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
    floor = tl.load(numbers_ptr + 4 * plane)
    spread = tl.broadcast_to(tl.load(numbers_ptr + 4 * plane + 1), value.shape)
    apart = spread >= LEAST
    share = tl.div_rn(value - floor, tl.where(apart, spread, 1.0))
    result = tl.where(apart, tl.minimum(tl.maximum(share, 0.0), 1.0), floor)
    to = out_ptr + _start(out_index_ptr, plane, channels, pixels) + pixel
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _stretch_slope(grad: tl.tensor, share: tl.tensor, spread: tl.tensor, apart: tl.tensor) -> Any:
    """What reaches each value's distance from the floor."""
    return tl.where(apart & (share >= 0.0) & (share <= 1.0), tl.div_rn(grad, spread), 0.0)


@jit
def _stretch_totals_kernel(
    totals_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    numbers_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    RUN: tl.constexpr,
) -> None:
    """What reaches the two percentiles of a plane."""
    plane = tl.program_id(0)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    own_grad_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, pixels)
    floor = tl.load(numbers_ptr + 4 * plane)
    spread = tl.broadcast_to(tl.load(numbers_ptr + 4 * plane + 1), (RUN,))
    apart = spread >= LEAST
    spread = tl.where(apart, spread, 1.0)
    to_floor, to_spread = tl.zeros((RUN,), tl.float32), tl.zeros((RUN,), tl.float32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        grad = tl.load(own_grad_ptr + pixel, mask=own, other=0.0).to(tl.float32)
        share = tl.div_rn(value - floor, spread)
        slope = _stretch_slope(grad, share, spread, apart)
        to_floor -= tl.where(apart, slope, -grad)
        to_spread -= slope * share
    to_ceiling = tl.sum(to_spread, 0)
    tl.store(totals_ptr + 2 * plane, tl.sum(to_floor, 0) - to_ceiling)
    tl.store(totals_ptr + 2 * plane + 1, to_ceiling)


@jit
def _stretch_pull_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    places_ptr: tl.tensor,
    numbers_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    plane, pixel, own = _run_of(pixels, TILE)
    if tl.load(out_index_ptr + plane // channels) < 0:
        return
    value_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels) + pixel
    own_grad_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, pixels) + pixel
    value = tl.load(value_ptr, mask=own, other=0.0).to(tl.float32)
    grad = tl.load(own_grad_ptr, mask=own, other=0.0).to(tl.float32)
    floor = tl.load(numbers_ptr + 4 * plane)
    spread = tl.broadcast_to(tl.load(numbers_ptr + 4 * plane + 1), value.shape)
    apart = spread >= LEAST
    spread = tl.where(apart, spread, 1.0)
    result = _stretch_slope(grad, tl.div_rn(value - floor, spread), spread, apart)
    for end in tl.static_range(2):
        total = tl.load(totals_ptr + 2 * plane + end)
        fraction = tl.load(numbers_ptr + 4 * plane + 2 + end)
        place_ptr = places_ptr + 4 * plane + 2 * end
        result += tl.where(pixel == tl.load(place_ptr), total * (1.0 - fraction), 0.0)
        result += tl.where(pixel == tl.load(place_ptr + 1), total * fraction, 0.0)
    to = out_ptr + _start(out_index_ptr, plane, channels, pixels) + pixel
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


_TYPES = {
    "index": "*i64",
    "bins": "*i64",
    "places": "*i64",
    "low": "*fp64",
    "high": "*fp64",
    "channels": "i32",
    "pixels": "i32",
    "size": "i32",
}


def _case(name: str, kernel: Any, moved: float, least: float, reason: str = "", **constants: float) -> Case:
    by_plane = "RUN" in constants
    names = [name for name in kernel.arg_names if name not in constants]
    return Case(
        name=name,
        kernel=kernel,
        types={name: _TYPES.get(name.removesuffix("_ptr").split("_")[-1], "*fp32") for name in names},
        constants=constants,
        aligned=("pixels",),
        warps=8 if by_plane else 4,
        bytes_per_pixel=moved,
        least_bytes=least,
        reason=reason,
    )


_SELECTION = "order statistics are found digit by digit: six passes over a plane, which stays in the cache"

CASES = (
    _case("equalise distribution", _distribute_kernel, 48, 24, RUN=_RUN, BINS=_BINS),
    _case("equalise", _equalise_kernel, 48, 24, LEAST=LEAST_SPREAD, TILE=_TILE),
    _case("equalise totals", _equalise_totals_kernel, 72, 36, LEAST=LEAST_SPREAD, RUN=_RUN),
    _case("equalise adjoint", _equalise_pull_kernel, 72, 36, LEAST=LEAST_SPREAD, TILE=_TILE),
    _case("stretch percentiles", _percentiles_kernel, 96, 24, _SELECTION, RUN=_RUN),
    _case("stretch", _stretch_kernel, 96, 24, _SELECTION, LEAST=LEAST_SPREAD, TILE=_TILE),
    _case("stretch totals", _stretch_totals_kernel, 60, 36, LEAST=LEAST_SPREAD, RUN=_RUN),
    _case("stretch adjoint", _stretch_pull_kernel, 60, 36, LEAST=LEAST_SPREAD, TILE=_TILE),
)
