"""Warps by native code and by Triton: one gather forward and one backward, no float atomics."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

Read = Literal["nearest", "edge", "mirror"]

_TILE = 256  # pixels of a program
_TURN_REGISTERS = 128  # of a thread where turns are tried backwards: what it needs, none spilled
_READS = {"nearest": 0, "edge": 1, "mirror": 2}


@torch.library.custom_op("cannonade::turn", mutates_args=())
def turn(images: Tensor, turns: Tensor, mirror: bool, backend: str) -> Tensor:
    """Turn images about a place by an angle that dies away with the distance from it, as `turn_into` says."""
    images = images.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        native.run("turn", out, images, turns.contiguous(), int(mirror), *images.shape)
    else:
        turn_into(every(out), every(images), turns, mirror)
    return out


@torch.library.custom_op("cannonade::turn_adjoint", mutates_args=())
def _turn_adjoint(grad: Tensor, turns: Tensor, mirror: bool, backend: str) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    if backend == "native":
        native.run("turn_adjoint", out, grad, turns.contiguous(), int(mirror), *grad.shape)
    else:
        turn_adjoint_into(every(out), every(grad), turns, mirror)
    return out


@torch.library.custom_op("cannonade::resize", mutates_args=())
def resize(images: Tensor, places: Tensor, height: int, width: int, read: str, fill: float, backend: str) -> Tensor:
    """Resize boxes of images into boxes of results of height × width, as `resize_into` says."""
    images = images.contiguous()
    out = images.new_empty((*images.shape[:2], height, width))
    if backend == "native":
        settings = (_READS[read], float(fill), *images.shape, height, width)
        native.run("resize", out, images, places.contiguous(), *settings)
    else:
        resize_into(every(out), every(images), places, read, fill)
    return out


@torch.library.custom_op("cannonade::resize_adjoint", mutates_args=())
def _resize_adjoint(grad: Tensor, places: Tensor, height: int, width: int, read: str, backend: str) -> Tensor:
    grad = grad.contiguous()
    out = grad.new_empty((*grad.shape[:2], height, width))
    if backend == "native":
        settings = (_READS[read], *out.shape, *grad.shape[2:])
        native.run("resize_adjoint", out, grad, places.contiguous(), *settings)
    else:
        resize_adjoint_into(every(out), every(grad), places, read)
    return out


@turn.register_fake
def _(images: Tensor, turns: Tensor, mirror: bool, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_turn_adjoint.register_fake
def _(grad: Tensor, turns: Tensor, mirror: bool, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@resize.register_fake
def _(images: Tensor, places: Tensor, height: int, width: int, read: str, fill: float, backend: str) -> Tensor:
    return images.new_empty((*images.shape[:2], height, width))


@_resize_adjoint.register_fake
def _(grad: Tensor, places: Tensor, height: int, width: int, read: str, backend: str) -> Tensor:
    return grad.new_empty((*grad.shape[:2], height, width))


def _keep_turns(ctx: Any, inputs: tuple[Tensor, Tensor, bool, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.settings = inputs[2:]


def _turn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _turn_adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


def _keep_places(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, str, float, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.settings = (*inputs[0].shape[2:], inputs[4], inputs[6])


def _resize_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _resize_adjoint(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 6


turn.register_autograd(_turn_backward, setup_context=_keep_turns)
resize.register_autograd(_resize_backward, setup_context=_keep_places)


def turn_into(out: Rows, images: Rows, turns: Tensor, mirror: bool) -> None:
    """Turn images of a buffer about a place each, by angle·exp(−falloff·distance) radians, read bilinearly.

    Args:
        out, images: of the same size.
        turns: [M, 4] float32: angle, falloff, and row and column of the place, in radians and pixels.
        mirror: whether the image's mirror, without its edge pixel repeated, lies outside; else zeros do.
    """
    _launch(_turn_kernel, out, images, turns, MIRROR=mirror)


def turn_adjoint_into(to: Rows, grad: Rows, turns: Tensor, mirror: bool) -> None:
    """The adjoint of `turn_into`."""
    _launch(_turn_adjoint_kernel, to, grad, turns, MIRROR=mirror, maxnreg=_TURN_REGISTERS)


def resize_into(out: Rows, images: Rows, places: Tensor, read: str, fill: float) -> None:
    """Resize a box of each image of a buffer into a box of its result.

    Args:
        out, images: of any two sizes.
        places: [M, 2, 4] int64, of rows and of columns: where the box of the result starts, its length, where that of
            the image starts, its length.
        read: "nearest", or bilinear with half-pixel centres, "edge" or "mirror" naming what lies around the image's box.
        fill: value around the result's box.
    """
    sizes = images.buffer.shape[2:]
    _launch(_resize_kernel, out, images, places, *sizes, float(fill), READ=_READS[read])


def resize_adjoint_into(to: Rows, grad: Rows, places: Tensor, read: str) -> None:
    """The adjoint of `resize_into` but for its constant."""
    _launch(_resize_adjoint_kernel, to, grad, places, *grad.buffer.shape[2:], READ=_READS[read])


def _launch(kernel: Any, out: Rows, source: Rows, parameters: Tensor, *numbers: float, **options: Any) -> None:
    """A program for every tile of pixels that are written."""
    _, channels, height, width = out.buffer.shape
    programs = len(out) * triton.cdiv(height * width, _TILE)
    if not programs or not channels:
        return
    with on_device(out.buffer):
        kernel[(programs,)](
            out.buffer, out.index, source.buffer, source.index, parameters.contiguous(), channels, height, width,
            *numbers, **options, CHANNELS=triton.next_power_of_2(channels), TILE=_TILE,
        )  # fmt: skip


def check_sides(images: Tensor) -> None:
    """Raise unless every place between pixels has two pixels around it.

    Raises:
        InputError: a side is of one pixel.
    """
    if min(images.shape[-2:]) < 2:
        raise InputError(f"images must have sides of at least 2 pixels to be turned, got {list(images.shape)}")


@jit
def _place(height: tl.tensor, width: tl.tensor, channels: tl.tensor, CHANNELS: tl.constexpr, TILE: tl.constexpr) -> Any:
    """Of a program: its image, its pixels [1, TILE], their row and column, the channels [CHANNELS, 1], and what is there."""
    tiles = tl.cdiv(height * width, TILE)
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)[None, :]
    channel = tl.arange(0, CHANNELS)[:, None]
    own = (pixel < height * width) & (channel < channels)
    return tl.program_id(0) // tiles, pixel, pixel // width, pixel % width, channel, own


@jit
def _turned(y: tl.tensor, x: tl.tensor, turn_ptr: tl.tensor, way: tl.tensor) -> Any:
    """Where a turn takes a place; with way −1, where it came from: turning keeps the distance that gives the angle."""
    row, column = tl.load(turn_ptr + 2), tl.load(turn_ptr + 3)
    down, right = y - row, x - column
    distance = tl.sqrt_rn(down * down + right * right)
    angle = way * tl.load(turn_ptr) * tl.exp(-tl.load(turn_ptr + 1) * distance)
    cos, sin = tl.cos(angle), tl.sin(angle)
    return sin * right + cos * down + row, cos * right - sin * down + column


@jit
def _reflected(place: tl.tensor, length: tl.tensor) -> Any:
    """The place in [0, length − 1] whose mirror lies at `place`."""
    period = 2.0 * (length - 1)
    beyond = tl.abs(place)
    beyond -= period * tl.floor(tl.div_rn(beyond, period + 0.0 * beyond))
    return tl.maximum(tl.minimum(beyond, period - beyond), 0.0)


@jit
def _pixel(
    plane_ptr: tl.tensor, y: tl.tensor, x: tl.tensor, height: tl.tensor, width: tl.tensor, own: tl.tensor
) -> Any:
    inside = own & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tl.load(plane_ptr + y * width + x, mask=inside, other=0.0).to(tl.float32)


@jit
def _between(
    plane_ptr: tl.tensor, row: tl.tensor, column: tl.tensor, height: tl.tensor, width: tl.tensor, own: tl.tensor
) -> Any:
    """The bilinear value at a place, zeros lying outside. Nested, so that rounding keeps it between its pixels."""
    top, left = tl.floor(row), tl.floor(column)
    down, right = row - top, column - left
    y, x = top.to(tl.int32), left.to(tl.int32)
    above = _pixel(plane_ptr, y, x, height, width, own) * (1.0 - right)
    above += _pixel(plane_ptr, y, x + 1, height, width, own) * right
    below = _pixel(plane_ptr, y + 1, x, height, width, own) * (1.0 - right)
    below += _pixel(plane_ptr, y + 1, x + 1, height, width, own) * right
    return above * (1.0 - down) + below * down


@jit
def _turn_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    turns_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    MIRROR: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel, y, x, channel, own = _place(height, width, channels, CHANNELS, TILE)
    to = tl.load(out_index_ptr + image)
    if to < 0:
        return
    row, column = _turned(y.to(tl.float32), x.to(tl.float32), turns_ptr + 4 * image, 1.0)
    if MIRROR:
        row, column = _reflected(row, height), _reflected(column, width)
    plane_ptr = images_ptr + (tl.load(images_index_ptr + image) * channels + channel) * (height * width)
    value = _between(plane_ptr, row, column, height, width, own)
    to_ptr = out_ptr + (to * channels + channel) * (height * width) + pixel
    tl.store(to_ptr, value.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _reach(y: tl.tensor, x: tl.tensor, turn_ptr: tl.tensor) -> Any:
    """How far from where a pixel came from the results lie that read it, at most.

    They read within √2 of the pixel, so their distance from it is at most √2 times the stretch of the turn backwards. A turn
    that dies away is a rotation after a shear by k = |angle|·u·exp(−u), u = falloff·distance; u within √2 pixels of the
    pixel's own, and as near to 1 as that allows, makes it greatest. A shear by k stretches by (k + √(k² + 4))/2.
    """
    down, right = y - tl.load(turn_ptr + 2), x - tl.load(turn_ptr + 3)
    distance = tl.sqrt_rn(down * down + right * right)
    falloff = tl.load(turn_ptr + 1)
    u = tl.minimum(tl.maximum(1.0, falloff * (distance - 1.4143)), falloff * (distance + 1.4143))
    shear = tl.abs(tl.load(turn_ptr)) * u * tl.exp(-u)
    return 0.70715 * (shear + tl.sqrt_rn(shear * shear + 4.0)) + 0.01


@jit
def _panels(centre: tl.tensor, farthest: tl.tensor, length: tl.tensor) -> Any:
    """The first and the last copy of an image along an axis of its mirrored plane that results can read.

    Copy k covers the places from k·(length − 1) to (k + 1)·(length − 1); results read within `farthest` of the centre.
    """
    last = (length - 1).to(tl.float32)
    return (
        tl.floor(tl.div_rn(centre - farthest - 1.01, last)).to(tl.int32),
        tl.floor(tl.div_rn(centre + farthest + 1.01, last)).to(tl.int32),
    )


@jit
def _copied(pixel: tl.tensor, panel: tl.tensor, length: tl.tensor) -> Any:
    """Where a pixel stands in a copy, and whether it does: edge pixels, which two copies share, count in even ones."""
    turned_over = panel % 2 != 0
    place = panel * (length - 1) + tl.where(turned_over, length - 1 - pixel, pixel)
    edge = (pixel == 0) | (pixel == length - 1)
    return place.to(tl.float32), (pixel < length) & ((panel % 2 == 0) | (edge == 0))


@jit
def _hat(distance: tl.tensor) -> Any:
    """The bilinear weight of a pixel at this distance along an axis."""
    return tl.maximum(1.0 - tl.abs(distance), 0.0)


@jit
def _turn_adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    turns_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    MIRROR: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    # A gather, not a scatter in fixed point: the turn backwards is known and its stretch bounded (see `_reach`), so no sums
    # of 64 bits, no greatest gradient and no second pass are needed, and what is not finite stays where it is.
    image, pixel, own_row, own_column, channel, own = _place(height, width, channels, CHANNELS, TILE)
    to = tl.load(out_index_ptr + image)
    if to < 0:
        return
    turn_ptr = turns_ptr + 4 * image
    plane_ptr = grad_ptr + (tl.load(grad_index_ptr + image) * channels + channel) * (height * width)
    first_down, last_down, first_across, last_across = 0, 0, 0, 0
    if MIRROR:
        centre_row, centre_column = tl.load(turn_ptr + 2), tl.load(turn_ptr + 3)
        tall = tl.maximum(tl.abs(centre_row), tl.abs(height - 1 - centre_row))
        wide = tl.maximum(tl.abs(centre_column), tl.abs(width - 1 - centre_column))
        farthest = tl.sqrt_rn(tall * tall + wide * wide)
        first_down, last_down = _panels(centre_row, farthest, height)
        first_across, last_across = _panels(centre_column, farthest, width)
    total = tl.zeros((CHANNELS, TILE), tl.float32)
    for panel_down in range(first_down, last_down + 1):
        for panel_across in range(first_across, last_across + 1):
            row, there_down = _copied(own_row, panel_down, height)
            column, there_across = _copied(own_column, panel_across, width)
            from_row, from_column = _turned(row, column, turn_ptr, -1.0)
            reach = _reach(row, column, turn_ptr)
            near = there_down & there_across & (from_row > -reach) & (from_row < height - 1 + reach)
            near = near & (from_column > -reach) & (from_column < width - 1 + reach)
            steps = tl.max(tl.where(near, (2.0 * reach).to(tl.int32) + 1, 0))  # whole numbers within reach of a place
            top = tl.ceil(from_row - reach).to(tl.int32)
            left = tl.ceil(from_column - reach).to(tl.int32)
            for step in range(0, steps * steps):
                y, x = top + step // steps, left + step % steps
                read_row, read_column = _turned(y.to(tl.float32), x.to(tl.float32), turn_ptr, 1.0)
                weight = tl.where(near, _hat(read_row - row) * _hat(read_column - column), 0.0)
                total += weight * _pixel(plane_ptr, y, x, height, width, own & (weight > 0.0))
    to_ptr = out_ptr + (to * channels + channel) * (height * width) + pixel
    tl.store(to_ptr, total.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _axis(axis_ptr: tl.tensor) -> Any:
    """Of an axis: start and length in the result, start and length in the image."""
    return (
        tl.load(axis_ptr).to(tl.int32),
        tl.load(axis_ptr + 1).to(tl.int32),
        tl.load(axis_ptr + 2).to(tl.int32),
        tl.load(axis_ptr + 3).to(tl.int32),
    )


@jit
def _stretched(place: tl.tensor, size: tl.tensor, length: tl.tensor, READ: tl.constexpr) -> Any:
    """Where pixels of a result of `size` read from `length` pixels; `_READS` has the numbers of READ."""
    if READ == 0:
        return (place * length // size).to(tl.float32)
    source = (place.to(tl.float32) + 0.5) * tl.div_rn(length.to(tl.float32), size.to(tl.float32)) - 0.5
    if READ == 2:
        source = tl.abs(source)
        source = tl.minimum(source, 2.0 * (length - 1) - source)
    return tl.minimum(tl.maximum(source, 0.0), (length - 1).to(tl.float32))


@jit
def _resize_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    places_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    images_height: tl.tensor,
    images_width: tl.tensor,
    fill: tl.tensor,
    READ: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel, y, x, channel, own = _place(height, width, channels, CHANNELS, TILE)
    to = tl.load(out_index_ptr + image)
    if to < 0:
        return
    top, rows, box_top, box_rows = _axis(places_ptr + 8 * image)
    left, columns, box_left, box_columns = _axis(places_ptr + 8 * image + 4)
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
    row = _stretched(tl.where(inside, y - top, 0), rows, box_rows, READ) + box_top
    column = _stretched(tl.where(inside, x - left, 0), columns, box_columns, READ) + box_left
    plane_ptr = images_ptr + (tl.load(images_index_ptr + image) * channels + channel) * (images_height * images_width)
    if READ == 0:
        value = _pixel(plane_ptr, row.to(tl.int32), column.to(tl.int32), images_height, images_width, own & inside)
    else:
        value = _between(plane_ptr, row, column, images_height, images_width, own & inside)
    to_ptr = out_ptr + (to * channels + channel) * (height * width) + pixel
    tl.store(to_ptr, tl.where(inside, value, fill).to(out_ptr.dtype.element_ty), mask=own)


@jit
def _readers(own: tl.tensor, size: tl.tensor, length: tl.tensor, READ: tl.constexpr) -> Any:
    """The first and the last pixel of a result of `size` that may read pixel `own` of `length`; none: last < first."""
    if READ == 0:
        first = (own * size + length - 1) // length
        last = ((own + 1) * size + length - 1) // length - 1
    else:
        scale = tl.div_rn(size.to(tl.float32), length.to(tl.float32))
        first = tl.ceil((own - 0.5) * scale - 0.51).to(tl.int32)
        last = tl.floor((own + 1.5) * scale - 0.49).to(tl.int32)
        # Around the box lie its edge pixel or its mirror: what reads there reads its first two pixels, or its last two.
        first = tl.where(own <= 1, 0, tl.maximum(first, 0))
        last = tl.where(own >= length - 2, size - 1, tl.minimum(last, size - 1))
    there = (own >= 0) & (own < length)
    return tl.where(there, first, 0), tl.where(there, last, -1)


@jit
def _share(
    place: tl.tensor, last: tl.tensor, own: tl.tensor, size: tl.tensor, length: tl.tensor, READ: tl.constexpr
) -> Any:
    """The weight with which a pixel of the result reads pixel `own`."""
    if READ == 0:
        return tl.where(place <= last, 1.0, 0.0)
    return tl.where(place <= last, _hat(_stretched(place, size, length, READ) - own), 0.0)


@jit
def _resize_adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    places_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    grad_height: tl.tensor,
    grad_width: tl.tensor,
    READ: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel, own_row, own_column, channel, own = _place(height, width, channels, CHANNELS, TILE)
    to = tl.load(out_index_ptr + image)
    if to < 0:
        return
    top, rows, box_top, box_rows = _axis(places_ptr + 8 * image)
    left, columns, box_left, box_columns = _axis(places_ptr + 8 * image + 4)
    first_row, last_row = _readers(own_row - box_top, rows, box_rows, READ)
    first_column, last_column = _readers(own_column - box_left, columns, box_columns, READ)
    plane_ptr = grad_ptr + (tl.load(grad_index_ptr + image) * channels + channel) * (grad_height * grad_width)
    total = tl.zeros((CHANNELS, TILE), tl.float32)
    for down in range(0, tl.max(last_row - first_row) + 1):
        y = first_row + down
        share = _share(y, last_row, own_row - box_top, rows, box_rows, READ)
        for across in range(0, tl.max(last_column - first_column) + 1):
            x = first_column + across
            weight = share * _share(x, last_column, own_column - box_left, columns, box_columns, READ)
            read = own & (weight > 0.0)
            total += weight * _pixel(plane_ptr, top + y, left + x, grad_height, grad_width, read)
    to_ptr = out_ptr + (to * channels + channel) * (height * width) + pixel
    tl.store(to_ptr, total.to(out_ptr.dtype.element_ty), mask=own)


def _case(name: str, kernel: Any, parameters: dict[str, str], operations: float, **constants: Any) -> Case:
    source = "grad" if name.endswith("adjoint") else "images"
    return Case(
        name=name,
        kernel=kernel,
        types={
            f"{of}_{part}": kind for of in ("out", source) for part, kind in (("ptr", "*fp32"), ("index_ptr", "*i64"))
        }
        | {"turns_ptr" if "turn" in name else "places_ptr": "*fp32" if "turn" in name else "*i64"}
        | {"channels": "i32", "height": "i32", "width": "i32"}
        | parameters,
        constants=constants | {"CHANNELS": 4, "TILE": _TILE},
        aligned=("height", "width"),
        bytes_per_pixel=24,
        least_bytes=24,
        operations=operations,
        most_registers=_TURN_REGISTERS if name == "warp turn adjoint" else None,
    )


def _sizes(source: str) -> dict[str, str]:
    return {f"{source}_height": "i32", f"{source}_width": "i32"}


# A turn costs some 100 operations. Backward tries it 9 times a pixel where little is stretched, 25 times at most for angles to
# 2 radians, and once for each of the 9 copies that an image of 224 × 224 has within reach.
CASES = (
    _case("warp turn", _turn_kernel, {}, 100, MIRROR=True),
    _case("warp turn adjoint", _turn_adjoint_kernel, {}, 100 * (16 + 9), MIRROR=True),
    _case("warp resize", _resize_kernel, _sizes("images") | {"fill": "fp32"}, 0, READ=2),
    _case("warp resize adjoint", _resize_adjoint_kernel, _sizes("grad"), 16 * 20, READ=2),
    _case("warp nearest", _resize_kernel, _sizes("images") | {"fill": "fp32"}, 0, READ=0),
    _case("warp nearest adjoint", _resize_adjoint_kernel, _sizes("grad"), 0, READ=0),
)
