"""CLAHE, and replacing the value in HSV, by native code and by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.blur import _start
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.histogram import _run_of
from cannonade.kernels.device.rows import Rows, every

NOISE = 2.0**-20  # a value up to it is black: float32's rounding noise has no colour

_RUN = 4096  # pixels of a plane that its one program takes at once
_TILE = 1024  # pixels of a program where a plane has many
_LOOK_UP = 512  # pixels of a program that reads eight entries of tables for each
_TILE_PIXELS = 1024  # of a tile of CLAHE that its program takes at once


@torch.library.custom_op("cannonade::clahe", mutates_args=())
def clahe_by_tiles(
    planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor, with_slope: bool, tiles: int, backend: str
) -> tuple[Tensor, Tensor]:
    """CLAHE of planes [P, H, W] and its slope, of no rows where it is not asked for.

    Args:
        planes: [P, H, W].
        rows, columns: [P] int64.
        clip_limit: [P] float64.
        with_slope: whether the slope is asked for.
        tiles: at least as many as a plane has; native code finds out by itself.
        backend: "triton" or "native".
    """
    planes = planes.contiguous()
    out, slope = _with_slope(planes, with_slope)
    if backend == "triton":
        ours, theirs = every(out[:, None]), every(planes[:, None])
        clahe_into(ours, theirs, rows[:, None], columns[:, None], clip_limit[:, None], None, tiles, slope[:, None])
        return out, slope
    native.run(
        "clahe", out, slope, planes, rows.contiguous(), columns.contiguous(), clip_limit.contiguous(), int(with_slope),
        *planes.shape,
    )  # fmt: skip
    return out, slope


@torch.library.custom_op("cannonade::replace_values", mutates_args=())
def replace_values(images: Tensor, new_value: Tensor, slope: Tensor, backend: str) -> Tensor:
    """`replace_value` of `cannonade.kernels.histogram`: images [N, 3, H, W]."""
    images, new_value = images.contiguous(), new_value.contiguous()
    out = torch.empty_like(images)
    if backend == "triton":
        _by_image(_replace_kernel, every(out), every(images), new_value)
    else:
        native.run("replace_values", out, images, new_value, NOISE, *_pixels(images))
    return out


@torch.library.custom_op("cannonade::replace_values_adjoint", mutates_args=())
def _replace_adjoint(grad: Tensor, images: Tensor, new_value: Tensor, slope: Tensor, backend: str) -> Tensor:
    grad, images, new_value, slope = (each.contiguous() for each in (grad, images, new_value, slope))
    out = torch.empty_like(images)
    if backend == "triton":
        rows = every(images)
        _by_image(_replace_pull_kernel, every(out), every(grad), rows.buffer, rows.index, new_value, slope)
    else:
        arguments = (grad, images, new_value, slope, NOISE)
        native.run("replace_values_adjoint", out, *arguments, *_pixels(images))
    return out


def _pixels(images: Tensor) -> tuple[int, int]:
    return len(images), images.shape[2:].numel()


def _like(planes: Tensor) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


def _with_slope(planes: Tensor, with_slope: bool) -> tuple[Tensor, Tensor]:
    return _like(planes), planes.new_empty((planes.shape[0] if with_slope else 0, *planes.shape[1:]))


@clahe_by_tiles.register_fake
def _(
    planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor, with_slope: bool, tiles: int, backend: str
) -> tuple[Tensor, Tensor]:
    return _with_slope(planes, with_slope)


@replace_values.register_fake
def _(images: Tensor, new_value: Tensor, slope: Tensor, backend: str) -> Tensor:
    return _like(images)


@_replace_adjoint.register_fake
def _(grad: Tensor, images: Tensor, new_value: Tensor, slope: Tensor, backend: str) -> Tensor:
    return _like(images)


def _keep_values(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.backend = inputs[3]


def _replace_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _replace_adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None


replace_values.register_autograd(_replace_backward, setup_context=_keep_values)


def most_tiles(size: torch.Size, least_rows: int, least_columns: int) -> int:
    """How many tiles a plane of a size (H, W) has at most if its tiles have at least these sides."""
    return -(-size[0] // least_rows) * -(-size[1] // least_columns)


def clahe_into(
    out: Rows,
    images: Rows,
    rows: Tensor,
    columns: Tensor,
    clip_limit: Tensor,
    per_channel: Tensor | None,
    tiles: int,
    slope: Tensor,
) -> None:
    """CLAHE of the channels of some images of a buffer, and of the value in HSV of others.

    Args:
        out, images: of a buffer each, RGB where per_channel is given.
        rows, columns: [M, C] int64, sides of the tiles of each channel; of the value, the first.
        clip_limit: [M, C].
        per_channel: [M] bool, false for the images whose value is equalised; None for the channels of all.
        tiles: at least as many as a plane has.
        slope: [M, C, H, W], which gets the derivative of each value by its own pixel, or of no rows. For an image whose value
            is equalised, its first plane gets that of the new value by the old, its second the new value.
    """
    count, channels, height, width = len(out), *images.buffer.shape[1:]
    if not count * channels * height * width:
        return
    new = images.buffer.new_empty
    ends, seen = new((count, channels, 2), dtype=torch.float32), new((count, channels, 2), dtype=torch.int32)
    bins = new((count, channels, height, width), dtype=torch.uint8)
    looked_up = torch.empty_like(bins, dtype=torch.int16)
    tables = new((count, channels, tiles, 256), dtype=torch.int16)
    flags = out.index if per_channel is None else per_channel.contiguous().view(torch.uint8)
    rows, columns, clip_limit = rows.contiguous(), columns.contiguous(), clip_limit.double().contiguous()
    shared = {"BY_VALUE": per_channel is not None, "WITH_SLOPE": len(slope) > 0}
    planes, runs = count * channels, triton.cdiv(height * width, _TILE)
    read = (out.index, flags, images.buffer, images.index)
    with on_device(images.buffer):
        _clahe_ends_kernel[(planes,)](
            ends, seen, *read, channels, height * width, BY_VALUE=shared["BY_VALUE"], RUN=_RUN, num_warps=8
        )
        _clahe_bins_kernel[(planes * runs,)](
            bins, *read, ends, channels, height * width, BY_VALUE=shared["BY_VALUE"], TILE=_TILE
        )
        _clahe_tables_kernel[(planes * tiles,)](
            tables, *read[:2], bins, rows, columns, clip_limit, channels, height, width, tiles,
            BY_VALUE=shared["BY_VALUE"], TILE=_TILE_PIXELS,
        )  # fmt: skip
        _clahe_look_up_kernel[(planes * triton.cdiv(height * width, _LOOK_UP),)](
            looked_up, slope, seen, *read[:2], bins, tables, rows, columns, channels, height, width, tiles,
            **shared, TILE=_LOOK_UP,
        )  # fmt: skip
        _clahe_finish_kernel[(count * runs,)](
            out.buffer, slope, *read, looked_up, ends, seen, height * width,
            **shared, CHANNELS=channels, LEAST=NOISE, TILE=_TILE,
        )  # fmt: skip


def clahe_adjoint_into(out: Rows, grad: Rows, images: Rows, per_channel: Tensor, slope: Tensor) -> None:
    """The gradient of `clahe_into` at these images, RGB, with the slope that it gave."""
    flags = per_channel.contiguous().view(torch.uint8)
    _by_image(_clahe_pull_kernel, out, grad, images.buffer, images.index, flags, slope)


def _by_image(kernel: Any, out: Rows, images: Rows, *arguments: Tensor) -> None:
    """A program for every run of pixels of every RGB image."""
    pixels = out.buffer.shape[2:].numel()
    grid = (len(out) * triton.cdiv(pixels, _TILE),)
    if grid[0]:
        with on_device(out.buffer):
            kernel[grid](
                out.buffer, out.index, images.buffer, images.index, *arguments, pixels, LEAST=NOISE, TILE=_TILE
            )


@jit
def _idle(
    out_index_ptr: tl.tensor, flags_ptr: tl.tensor, plane: tl.tensor, channels: tl.tensor, BY_VALUE: tl.constexpr
) -> Any:
    """Whether a plane has no work: there is no image, or the image's value is equalised and the plane is not its first."""
    image = plane // channels
    idle = tl.load(out_index_ptr + image) < 0
    if BY_VALUE:
        idle |= (tl.load(flags_ptr + image) == 0) & (plane % channels > 0)
    return idle


@jit
def _read(
    from_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    plane: tl.tensor,
    channels: tl.tensor,
    pixel: tl.tensor,
    pixels: tl.tensor,
    own: tl.tensor,
    BY_VALUE: tl.constexpr,
) -> Any:
    """Pixels of a channel, or of the value: the largest channel."""
    value = tl.load(from_ptr + pixel, mask=own, other=0.0).to(tl.float32)
    if BY_VALUE:
        others = own & (tl.load(flags_ptr + plane // channels) == 0)
        green = tl.load(from_ptr + pixels + pixel, mask=others, other=float("-inf")).to(tl.float32)
        blue = tl.load(from_ptr + 2 * pixels + pixel, mask=others, other=float("-inf")).to(tl.float32)
        value = tl.maximum(value, tl.maximum(green, blue))
    return value


@jit
def _nearest(value: tl.tensor) -> Any:
    """The nearest whole number, halves to even, of a number from 0 to 2³⁰.

    It compares where a difference would do, so that no product before it is left unrounded.
    """
    whole = value.to(tl.int32)
    half = whole.to(tl.float64) + 0.5
    return whole + ((value > half) | ((value == half) & (whole % 2 == 1))).to(tl.int32)


@jit
def _sixteen_bits(value: tl.tensor) -> Any:
    return _nearest(value.to(tl.float64) * 65535.0)


@jit
def _clahe_ends_kernel(
    ends_ptr: tl.tensor,
    seen_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    BY_VALUE: tl.constexpr,
    RUN: tl.constexpr,
) -> None:
    """The least and the greatest value of a plane; and what the greys' are counted down and up from."""
    plane = tl.program_id(0)
    if _idle(out_index_ptr, flags_ptr, plane, channels, BY_VALUE):
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    least = tl.full((RUN,), float("inf"), tl.float32)
    most = tl.full((RUN,), float("-inf"), tl.float32)
    for first in range(0, pixels, RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        value = _read(from_ptr, flags_ptr, plane, channels, pixel, pixels, own, BY_VALUE)
        least = tl.minimum(least, tl.where(own, value, float("inf")))
        most = tl.maximum(most, tl.where(own, value, float("-inf")))
    tl.store(ends_ptr + 2 * plane, tl.min(least, 0))
    tl.store(ends_ptr + 2 * plane + 1, tl.max(most, 0))
    tl.store(seen_ptr + 2 * plane, 16383)
    tl.store(seen_ptr + 2 * plane + 1, 0)


@jit
def _clahe_bins_kernel(
    bins_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    BY_VALUE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """The bins of the 14-bit greys that the 16-bit values are stretched to."""
    plane, pixel, own = _run_of(pixels, TILE)
    if _idle(out_index_ptr, flags_ptr, plane, channels, BY_VALUE):
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    value = _read(from_ptr, flags_ptr, plane, channels, pixel, pixels, own, BY_VALUE)
    low = _sixteen_bits(tl.load(ends_ptr + 2 * plane))
    spread = tl.maximum(_sixteen_bits(tl.load(ends_ptr + 2 * plane + 1)) - low, 1)
    above = (_sixteen_bits(tl.where(own, value, 0.0)) - low).to(tl.float64)
    grey = _nearest(above / spread.to(tl.float64) * 16383.0)
    tl.store(bins_ptr + plane.to(tl.int64) * pixels + pixel, (grey // 65).to(tl.uint8), mask=own)


@jit
def _mirrored(place: tl.tensor, side: tl.tensor) -> Any:
    """The pixel that completes a tile beyond the image."""
    period = tl.maximum(2 * (side - 1), 1)
    inside = place % period
    return tl.minimum(tl.minimum(inside, tl.abs(period - inside)), side - 1)


@jit
def _clip(counts: tl.tensor, limit: tl.tensor) -> Any:
    """A histogram clipped, and its excess handed out, as scikit-image; see `cannonade.kernels.histogram`."""
    bin = tl.arange(0, 256)
    excess = tl.sum(tl.maximum(counts - limit, 0), 0)
    counts = tl.minimum(counts, limit)
    increment = excess // 256
    low = (counts < limit - increment).to(tl.int32)
    excess -= tl.sum(low, 0) * increment
    counts += low * increment
    full = tl.where(counts >= limit - increment, limit - counts, 0)
    excess -= tl.sum(full, 0)
    counts += full
    first = 0
    free = tl.sum((counts < limit).to(tl.int32), 0)
    while (excess > 0) & (free > 0):
        step = tl.maximum(free // excess, 1)
        chosen = ((counts < limit) & (bin >= first) & ((bin - first) % step == 0)).to(tl.int32)
        counts += chosen
        excess -= tl.sum(chosen, 0)
        first = (first + 1) % 256
        free = tl.sum((counts < limit).to(tl.int32), 0)
    return counts


@jit
def _clahe_tables_kernel(
    tables_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    columns_ptr: tl.tensor,
    limit_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    BY_VALUE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """The grey value that a tile gives each bin: a program for each tile that the plane could have."""
    plane, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if _idle(out_index_ptr, flags_ptr, plane, channels, BY_VALUE):
        return
    rows, columns = tl.load(rows_ptr + plane).to(tl.int32), tl.load(columns_ptr + plane).to(tl.int32)
    across = tl.cdiv(width, columns)
    if tile >= across * tl.cdiv(height, rows):
        return
    from_ptr = bins_ptr + plane.to(tl.int64) * height * width
    top, left = tile // across * rows, tile % across * columns
    area = rows * columns
    counts = tl.zeros((256,), tl.int32)
    for first in range(0, area, TILE):
        place = first + tl.arange(0, TILE)
        own = place < area
        y, x = _mirrored(top + place // columns, height), _mirrored(left + place % columns, width)
        counts += tl.histogram(tl.load(from_ptr + y * width + x, mask=own, other=0).to(tl.int32), 256, mask=own)
    wide = area.to(tl.float64)
    limit = tl.maximum((tl.load(limit_ptr + plane) * wide).to(tl.int32), 1)
    scale = tl.full((), 16383.0, tl.float64) / wide
    grey = tl.minimum(tl.cumsum(_clip(counts, limit), 0).to(tl.float64) * scale, 16383.0)
    to = tables_ptr + (plane.to(tl.int64) * tiles + tile) * 256 + tl.arange(0, 256)
    tl.store(to, grey.to(tl.int32).to(tl.int16))


@jit
def _neighbours(place: tl.tensor, size: tl.tensor, side: tl.tensor) -> Any:
    """The tile before a coordinate's place between tile centres, the tile after it, and the weight of the second."""
    shifted = place + size // 2
    after = shifted // size
    weight = shifted - after * size
    return tl.maximum(after - 1, 0), tl.minimum(after, (side - 1) // size), weight


@jit
def _weighted(
    top_left: tl.tensor,
    top_right: tl.tensor,
    bottom_left: tl.tensor,
    bottom_right: tl.tensor,
    down: tl.tensor,
    right: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
) -> Any:
    """Four tiles' entries by whole weights, which sum to the tile's area: int64."""
    left = columns - right
    top = top_left.to(tl.int64) * left + top_right.to(tl.int64) * right
    bottom = bottom_left.to(tl.int64) * left + bottom_right.to(tl.int64) * right
    return top * (rows - down) + bottom * down


@jit
def _whole_quotient(total: tl.tensor, area: tl.tensor) -> Any:
    """⌊total / area⌋, below 2¹⁴: the quotient of float32 is off by one at most."""
    quotient = tl.div_rn(total.to(tl.float32), area.to(tl.float32)).to(tl.int32)
    rest = total - quotient.to(tl.int64) * area
    return quotient + (rest >= area).to(tl.int32) - (rest < 0).to(tl.int32)


@jit
def _entry(table_ptr: tl.tensor, own: tl.tensor) -> Any:
    return tl.load(table_ptr, mask=own, other=0).to(tl.int32)


@jit
def _clahe_look_up_kernel(
    looked_up_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    seen_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    bins_ptr: tl.tensor,
    tables_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    columns_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    BY_VALUE: tl.constexpr,
    WITH_SLOPE: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Greys between tables, rounded down, and the rise over a bin that they lie on; the ends of the greys."""
    pixels = height * width
    plane, pixel, own = _run_of(pixels, TILE)
    if _idle(out_index_ptr, flags_ptr, plane, channels, BY_VALUE):
        return
    at = plane.to(tl.int64) * pixels + pixel
    rows, columns = tl.load(rows_ptr + plane).to(tl.int32), tl.load(columns_ptr + plane).to(tl.int32)
    above, below, down = _neighbours(pixel // width, rows, height)
    before, after, right = _neighbours(pixel % width, columns, width)
    bin = tl.load(bins_ptr + at, mask=own, other=0).to(tl.int32)
    across = tl.cdiv(width, columns)
    from_ptr = tables_ptr + plane.to(tl.int64) * tiles * 256 + bin
    top_left_ptr, top_right_ptr = from_ptr + (above * across + before) * 256, from_ptr + (above * across + after) * 256
    bottom_left_ptr = from_ptr + (below * across + before) * 256
    bottom_right_ptr = from_ptr + (below * across + after) * 256
    top_left, top_right = _entry(top_left_ptr, own), _entry(top_right_ptr, own)
    bottom_left, bottom_right = _entry(bottom_left_ptr, own), _entry(bottom_right_ptr, own)
    area = tl.zeros_like(pixel) + rows * columns
    grey = _whole_quotient(_weighted(top_left, top_right, bottom_left, bottom_right, down, right, rows, columns), area)
    tl.store(looked_up_ptr + at, grey.to(tl.int16), mask=own)
    tl.atomic_min(seen_ptr + 2 * plane, tl.min(tl.where(own, grey, 16383), 0))
    tl.atomic_max(seen_ptr + 2 * plane + 1, tl.max(tl.where(own, grey, 0), 0))
    if WITH_SLOPE:
        more = own & (bin > 0)
        top_left -= _entry(top_left_ptr - 1, more)
        top_right -= _entry(top_right_ptr - 1, more)
        bottom_left -= _entry(bottom_left_ptr - 1, more)
        bottom_right -= _entry(bottom_right_ptr - 1, more)
        rise = _weighted(top_left, top_right, bottom_left, bottom_right, down, right, rows, columns)
        rise = tl.div_rn(rise.to(tl.float32), area.to(tl.float32))
        tl.store(slope_ptr + at, rise.to(slope_ptr.dtype.element_ty), mask=own)


@jit
def _finished(
    value: tl.tensor,
    looked_up_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    seen_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    own: tl.tensor,
    WITH_SLOPE: tl.constexpr,
) -> Any:
    """The greys of a plane stretched to [0, 1], and the slope; a plane without contrast stays as it is."""
    grey = tl.load(looked_up_ptr, mask=own, other=0).to(tl.int32)
    least, most = tl.load(seen_ptr), tl.load(seen_ptr + 1)
    spread = _sixteen_bits(tl.load(ends_ptr + 1)) - _sixteen_bits(tl.load(ends_ptr))
    changes = (most > least) & (spread > 0)
    contrast = tl.maximum(most - least, 1).to(tl.float32) + tl.zeros_like(value)
    result = tl.where(changes, tl.div_rn((grey - least).to(tl.float32), contrast), value)
    if WITH_SLOPE:
        rise = tl.load(slope_ptr, mask=own, other=0.0).to(tl.float32)
        scale = tl.div_rn(1008.2307692307693 * 16383.0 + tl.zeros_like(value), contrast)  # 65535 / 65
        scale = tl.div_rn(scale, tl.maximum(spread, 1).to(tl.float32) + tl.zeros_like(value))
        tl.store(slope_ptr, tl.where(changes, rise * scale, 1.0).to(slope_ptr.dtype.element_ty), mask=own)
    return result


@jit
def _replaced(channel: tl.tensor, value: tl.tensor, new: tl.tensor, LEAST: tl.constexpr) -> Any:
    """A channel of a pixel with a new value: hue and saturation stay, black becomes grey."""
    coloured = value > LEAST
    return tl.where(coloured, tl.div_rn(channel, tl.where(coloured, value, 1.0)), 1.0) * new


@jit
def _rgb(image_ptr: tl.tensor, pixel: tl.tensor, pixels: tl.tensor, own: tl.tensor) -> Any:
    red = tl.load(image_ptr + pixel, mask=own, other=0.0).to(tl.float32)
    green = tl.load(image_ptr + pixels + pixel, mask=own, other=0.0).to(tl.float32)
    blue = tl.load(image_ptr + 2 * pixels + pixel, mask=own, other=0.0).to(tl.float32)
    return red, green, blue


@jit
def _store_rgb(
    image_ptr: tl.tensor,
    pixel: tl.tensor,
    pixels: tl.tensor,
    own: tl.tensor,
    red: tl.tensor,
    green: tl.tensor,
    blue: tl.tensor,
) -> None:
    kind = image_ptr.dtype.element_ty
    tl.store(image_ptr + pixel, red.to(kind), mask=own)
    tl.store(image_ptr + pixels + pixel, green.to(kind), mask=own)
    tl.store(image_ptr + 2 * pixels + pixel, blue.to(kind), mask=own)


@jit
def _clahe_finish_kernel(
    out_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    looked_up_ptr: tl.tensor,
    ends_ptr: tl.tensor,
    seen_ptr: tl.tensor,
    pixels: tl.tensor,
    BY_VALUE: tl.constexpr,
    WITH_SLOPE: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Greys to values, and the image's colours by its new value where that was equalised."""
    image, pixel, own = _run_of(pixels, TILE)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    from_ptr = images_ptr + tl.load(images_index_ptr + image) * CHANNELS * pixels
    to_ptr = out_ptr + row * CHANNELS * pixels
    first = image * CHANNELS
    at = first.to(tl.int64) * pixels + pixel
    if BY_VALUE and tl.load(flags_ptr + image) == 0:
        red, green, blue = _rgb(from_ptr, pixel, pixels, own)
        value = tl.maximum(red, tl.maximum(green, blue))
        new = _finished(
            value, looked_up_ptr + at, ends_ptr + 2 * first, seen_ptr + 2 * first, slope_ptr + at, own, WITH_SLOPE
        )
        if WITH_SLOPE:
            tl.store(slope_ptr + at + pixels, new.to(slope_ptr.dtype.element_ty), mask=own)
        red, green, blue = (
            _replaced(red, value, new, LEAST),
            _replaced(green, value, new, LEAST),
            _replaced(blue, value, new, LEAST),
        )
        _store_rgb(to_ptr, pixel, pixels, own, red, green, blue)
        return
    for channel in tl.static_range(CHANNELS):
        plane, own_at = first + channel, at + channel * pixels
        value = tl.load(from_ptr + channel * pixels + pixel, mask=own, other=0.0).to(tl.float32)
        result = _finished(
            value,
            looked_up_ptr + own_at,
            ends_ptr + 2 * plane,
            seen_ptr + 2 * plane,
            slope_ptr + own_at,
            own,
            WITH_SLOPE,
        )
        tl.store(to_ptr + channel * pixels + pixel, result.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _pull_value(
    red: tl.tensor,
    green: tl.tensor,
    blue: tl.tensor,
    to_red: tl.tensor,
    to_green: tl.tensor,
    to_blue: tl.tensor,
    new: tl.tensor,
    slope: tl.tensor,
    LEAST: tl.constexpr,
) -> Any:
    """The gradient of `_replaced` at a pixel's colours; channels that share the largest share its part."""
    value = tl.maximum(red, tl.maximum(green, blue))
    coloured = value > LEAST
    divisor = tl.where(coloured, value, 1.0)
    by_new = to_red * _replaced(red, value, 1.0, LEAST)
    by_new += to_green * _replaced(green, value, 1.0, LEAST)
    by_new += to_blue * _replaced(blue, value, 1.0, LEAST)
    scale = tl.where(coloured, tl.div_rn(new, divisor), 0.0)
    equal = (red == value).to(tl.float32) + (green == value).to(tl.float32) + (blue == value).to(tl.float32)
    to_value = tl.div_rn(by_new * slope - by_new * scale, equal)
    red_part = to_red * scale + tl.where(red == value, to_value, 0.0)
    green_part = to_green * scale + tl.where(green == value, to_value, 0.0)
    return red_part, green_part, to_blue * scale + tl.where(blue == value, to_value, 0.0)


@jit
def _clahe_pull_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    flags_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """The gradient of CLAHE of an RGB image, by the slope of its channels or of its value."""
    image, pixel, own = _run_of(pixels, TILE)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    to_red, to_green, to_blue = _rgb(grad_ptr + tl.load(grad_index_ptr + image) * 3 * pixels, pixel, pixels, own)
    # Slopes of the channels; or of the value, and the new value.
    first, second, third = _rgb(slope_ptr + image.to(tl.int64) * 3 * pixels, pixel, pixels, own)
    if tl.load(flags_ptr + image) == 0:
        red, green, blue = _rgb(images_ptr + tl.load(images_index_ptr + image) * 3 * pixels, pixel, pixels, own)
        to_red, to_green, to_blue = _pull_value(red, green, blue, to_red, to_green, to_blue, second, first, LEAST)
    else:
        to_red, to_green, to_blue = to_red * first, to_green * second, to_blue * third
    _store_rgb(out_ptr + row * 3 * pixels, pixel, pixels, own, to_red, to_green, to_blue)


@jit
def _replace_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    new_ptr: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel, own = _run_of(pixels, TILE)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    red, green, blue = _rgb(images_ptr + tl.load(images_index_ptr + image) * 3 * pixels, pixel, pixels, own)
    new = tl.load(new_ptr + image.to(tl.int64) * pixels + pixel, mask=own, other=0.0).to(tl.float32)
    value = tl.maximum(red, tl.maximum(green, blue))
    red, green = _replaced(red, value, new, LEAST), _replaced(green, value, new, LEAST)
    _store_rgb(out_ptr + row * 3 * pixels, pixel, pixels, own, red, green, _replaced(blue, value, new, LEAST))


@jit
def _replace_pull_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    new_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    pixels: tl.tensor,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel, own = _run_of(pixels, TILE)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    to_red, to_green, to_blue = _rgb(grad_ptr + tl.load(grad_index_ptr + image) * 3 * pixels, pixel, pixels, own)
    red, green, blue = _rgb(images_ptr + tl.load(images_index_ptr + image) * 3 * pixels, pixel, pixels, own)
    at = image.to(tl.int64) * pixels + pixel
    new = tl.load(new_ptr + at, mask=own, other=0.0).to(tl.float32)
    slope = tl.load(slope_ptr + at, mask=own, other=0.0).to(tl.float32)
    to_red, to_green, to_blue = _pull_value(red, green, blue, to_red, to_green, to_blue, new, slope, LEAST)
    _store_rgb(out_ptr + row * 3 * pixels, pixel, pixels, own, to_red, to_green, to_blue)


_TYPES = {
    "seen": "*i32",
    "index": "*i64",
    "flags": "*u8",
    "bins": "*u8",
    "tables": "*i16",
    "up": "*i16",
    "rows": "*i64",
    "columns": "*i64",
    "limit": "*fp64",
    "channels": "i32",
    "height": "i32",
    "width": "i32",
    "pixels": "i32",
    "tiles": "i32",
}


def _case(name: str, kernel: Any, moved: float, least: float, reason: str = "", **constants: float) -> Case:
    names = [name for name in kernel.arg_names if name not in constants]
    return Case(
        name=name,
        kernel=kernel,
        types={name: _TYPES.get(name.removesuffix("_ptr").split("_")[-1], "*fp32") for name in names},
        constants=constants,
        aligned=("height", "width", "pixels"),
        warps=8 if "RUN" in constants else 4,
        bytes_per_pixel=moved,
        least_bytes=least,
        reason=reason,
    )


_PASSES = "ends, tables and the ends of what they give need all of a plane: five passes; bins and greys are small"
_BOTH = {"BY_VALUE": True, "WITH_SLOPE": True}

CASES = (
    _case("clahe ends", _clahe_ends_kernel, 93, 36, _PASSES, BY_VALUE=True, RUN=_RUN),
    _case("clahe bins", _clahe_bins_kernel, 93, 36, _PASSES, BY_VALUE=True, TILE=_TILE),
    _case("clahe tables", _clahe_tables_kernel, 93, 36, _PASSES, BY_VALUE=True, TILE=_TILE_PIXELS),
    _case("clahe look-up", _clahe_look_up_kernel, 93, 36, _PASSES, **_BOTH, TILE=_LOOK_UP),
    _case("clahe finish", _clahe_finish_kernel, 93, 36, _PASSES, **_BOTH, CHANNELS=3, LEAST=NOISE, TILE=_TILE),
    _case("clahe adjoint", _clahe_pull_kernel, 48, 48, LEAST=NOISE, TILE=_TILE),
    _case("replace value", _replace_kernel, 28, 28, LEAST=NOISE, TILE=_TILE),
    _case("replace value adjoint", _replace_pull_kernel, 44, 44, LEAST=NOISE, TILE=_TILE),
)
