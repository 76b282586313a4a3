"""Warps: every pixel of the result is read from one place of its image, found by a per-image inverse map."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.warp import (
    check_sides,
    resize,
    resize_adjoint_into,
    resize_into,
    turn,
    turn_adjoint_into,
    turn_into,
)

_PADDING = {"zeros": "zeros", "mirror": "reflection", "edge": "border"}

Border = Literal["zeros", "mirror", "edge"]


@dataclass(frozen=True)
class Box:
    """A rectangle of each image, in whole pixels: [N] int64 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def read_bilinear(images: Tensor, rows: Tensor, columns: Tensor, border: Border = "edge") -> Tensor:
    """Read images at fractional places, between the four pixels around each.

    Backward scatters into the four pixels (`F.grid_sample`); the places are constants.

    Args:
        images: [N, C, H, W] with H, W ≥ 2.
        rows, columns: places in pixels, (0, 0) being the middle of the first pixel; they broadcast to [N, h, w].
        border: what lies outside: "zeros", the image mirrored without repeating its edge pixel, or the edge pixel.

    Returns:
        [N, C, h, w].
    """
    height, width = images.shape[-2:]
    y, x = torch.broadcast_tensors(rows * (2 / (height - 1)) - 1, columns * (2 / (width - 1)) - 1)
    grid = torch.stack((x, y), dim=-1)
    out: Tensor = F.grid_sample(images, grid, mode="bilinear", padding_mode=_PADDING[border], align_corners=True)
    return out


def rotate(images: Tensor, degrees: Tensor, backend: Backend = "auto") -> Tensor:
    """Rotate images counter-clockwise about their middle, ((W − 1)/2, (H − 1)/2); zeros come in from outside.

    Args:
        images: [N, C, H, W].
        degrees: [N].
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, C, H, W], read between pixels bilinearly.

    Raises:
        InputError: a side is of one pixel.
    """
    check_sides(images)
    chosen = _chosen(images, backend)
    if chosen != "torch":
        turned: Tensor = turn(images, _rotations(degrees, images), False, chosen)
        return turned
    middle_row, middle_column = ((side - 1) / 2 for side in images.shape[-2:])
    rows, columns = _pixels(images)
    angle = _each(degrees, images) * (math.pi / 180)
    y, x = _turned(rows - middle_row, columns - middle_column, angle)
    return read_bilinear(images, y + middle_row, x + middle_column, border="zeros")


def rotate_step(degrees: Tensor) -> Step:
    """`rotate` by launchers; degrees [M], one for each image of a launch."""
    return _turn_step(lambda images: _rotations(degrees, images), mirror=False)


def swirl(images: Tensor, strength: Tensor, radius: Tensor, x: Tensor, y: Tensor, backend: Backend = "auto") -> Tensor:
    """Turn images about a centre by strength·exp(−ρ/(radius·ln 2/5)) radians at distance ρ; outside lies their mirror.

    Source: `skimage.transform.swirl`, whose map this is.

    Args:
        images: [N, C, H, W].
        strength: [N], radians.
        radius: [N], pixels.
        x, y: [N], column and row of the centre.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, C, H, W], read between pixels bilinearly.

    Raises:
        InputError: a side is of one pixel.
    """
    check_sides(images)
    chosen = _chosen(images, backend)
    if chosen != "torch":
        turned: Tensor = turn(images, _swirls(strength, radius, x, y), True, chosen)
        return turned
    rows, columns = _pixels(images)
    down, right = rows - _each(y, images), columns - _each(x, images)
    decay = _each(radius, images) * (-math.log(2) / 5)
    angle = _each(strength, images) * ((down.square() + right.square()).sqrt_() / decay).exp_()
    row, column = _turned(down, right, angle)
    return read_bilinear(images, row + _each(y, images), column + _each(x, images), border="mirror")


def swirl_step(strength: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Step:
    """`swirl` by launchers; [M] each, one for each image of a launch."""
    return _turn_step(lambda _: _swirls(strength, radius, x, y), mirror=True)


def resize_crop(images: Tensor, box: Box, border: Literal["mirror", "edge"], backend: Backend = "auto") -> Tensor:
    """Cut a box out of each image and resize it to the size of the image, bilinearly with half-pixel centres.

    No anti-aliasing where a box is larger than the result.

    Args:
        images: [N, C, H, W].
        box: lies inside the image.
        border: what lies around the box, for the half pixel along the edge of the result: the box mirrored without
            repeating its edge pixel, or its edge pixel.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, C, H, W].
    """
    chosen = _chosen(images, backend)
    if chosen != "torch":
        height, width = images.shape[-2:]
        resized: Tensor = resize(images, _crops(box, height, width), height, width, border, 0.0, chosen)
        return resized
    rows, columns = _pixels(images)
    row = _stretched(rows, _each(box.height, images), images.shape[-2], border) + _each(box.top, images)
    column = _stretched(columns, _each(box.width, images), images.shape[-1], border) + _each(box.left, images)
    return read_bilinear(images, row, column)


def resize_crop_step(box: Callable[[int, int], Box], border: Literal["mirror", "edge"]) -> Step:
    """`resize_crop` by launchers.

    Args:
        box: of the images' height and width, a rectangle for each image of a launch.
        border: see `resize_crop`.
    """

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        height, width = images.buffer.shape[-2:]
        places = _crops(box(height, width), height, width)
        resize_into(out, images, places, border, 0.0)
        return (places,)

    def backward(to: Rows, grad: Rows, images: Rows, places: Tensor) -> None:
        resize_adjoint_into(to, grad, places, border)

    return Step(forward, backward)


def resize_pad(
    images: Tensor,
    side: Tensor,
    top: Tensor,
    left: Tensor,
    size: int,
    interpolation: Literal["nearest", "bilinear"],
    fill: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Resize each image to side × side and put it on a constant square, (top, left) being its first pixel's place.

    Args:
        images: [N, C, H, W] in [0, 1].
        side: [N] int64.
        top, left: [N] int64, from 0 to size − side.
        size: side of the result.
        interpolation: "nearest" reads row ⌊i·H/side⌋ for row i; "bilinear" has half-pixel centres, the edge pixel
            around the image and no anti-aliasing.
        fill: value around the image.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding, "nearest" by nothing.

    Returns:
        [N, C, size, size].
    """
    height, width = images.shape[-2:]
    chosen = _chosen(images, backend)
    if chosen != "torch":
        none, whole = torch.zeros_like(side), torch.full_like
        down = torch.stack((top, side, none, whole(side, height)), dim=1)
        across = torch.stack((left, side, none, whole(side, width)), dim=1)
        read = "nearest" if interpolation == "nearest" else "edge"
        padded: Tensor = resize(images, torch.stack((down, across), dim=1), size, size, read, fill, chosen)
        return padded
    places = torch.arange(size, device=images.device)
    rows, columns = places - top[:, None], places - left[:, None]
    inside = _within(rows, side)[:, :, None] & _within(columns, side)[:, None]
    if interpolation == "nearest":
        row, column = (_nearest(place, side, length) for place, length in ((rows, height), (columns, width)))
        index = (row[:, :, None] * width + column[:, None]).flatten(1)
        resized = read_pixels(images, index).view(*images.shape[:2], size, size)
    else:
        row = _stretched(rows.to(images.dtype)[:, :, None], height, _each(side, images), "edge")
        column = _stretched(columns.to(images.dtype)[:, None], width, _each(side, images), "edge")
        resized = read_bilinear(images, row, column)
    return resized.where(inside[:, None], fill)


def read_pixels(images: Tensor, index: Tensor) -> Tensor:
    """Read whole pixels.

    Args:
        images: [N, C, H, W].
        index: [N, P] int64, row · W + column of each pixel to read.

    Returns:
        [N, C, P].
    """
    return images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1))


def _chosen(images: Tensor, backend: Backend) -> Literal["triton", "native", "torch"]:
    return choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)


def _turn_step(turns: Callable[[Tensor], Tensor], mirror: bool) -> Step:
    """A turn by launchers, its parameters those of images of a buffer."""

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        own = turns(images.buffer)
        turn_into(out, images, own, mirror)
        return (own,)

    def backward(to: Rows, grad: Rows, images: Rows, own: Tensor) -> None:
        turn_adjoint_into(to, grad, own, mirror)

    return Step(forward, backward)


def _rotations(degrees: Tensor, images: Tensor) -> Tensor:
    """The turns that are rotations, whose angle does not die away: [N, 4]."""
    angle = degrees.float() * (math.pi / 180)
    rows, columns = (torch.full_like(angle, (side - 1) / 2) for side in images.shape[-2:])
    return torch.stack((angle, torch.zeros_like(angle), rows, columns), dim=1)


def _swirls(strength: Tensor, radius: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The turns that are swirls: [N, 4]."""
    falloff = 5 / (math.log(2) * radius.float())
    return torch.stack((strength.float(), falloff, y.float(), x.float()), dim=1)


def _crops(box: Box, height: int, width: int) -> Tensor:
    """Boxes of images enlarged to the whole result: [N, 2, 4]."""
    none, whole = torch.zeros_like(box.top), torch.full_like
    down = torch.stack((none, whole(none, height), box.top, box.height), dim=1)
    across = torch.stack((none, whole(none, width), box.left, box.width), dim=1)
    return torch.stack((down, across), dim=1)


def _pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [H, 1] and column numbers [W] of the images, in their dtype."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=images.dtype, device=images.device)
    columns = torch.arange(width, dtype=images.dtype, device=images.device)
    return rows[:, None], columns


def _each(values: Tensor, images: Tensor) -> Tensor:
    """[N] values as [N, 1, 1] in the images' dtype."""
    return values.to(images.dtype)[:, None, None]


def _turned(down: Tensor, right: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return sin * right + cos * down, cos * right - sin * down


def _stretched(places: Tensor, length: Tensor | int, size: Tensor | int, border: Literal["mirror", "edge"]) -> Tensor:
    """Where `size` pixels read from `length` pixels, with half-pixel centres; in [0, length − 1]."""
    source = (places + 0.5) * (length / size) - 0.5
    if border == "mirror":
        source = source.abs()
        source = torch.minimum(source, 2 * (length - 1) - source)
    return source.clamp_(min=0).clamp_(max=length - 1)


def _within(places: Tensor, side: Tensor) -> Tensor:
    return (places >= 0) & (places < side[:, None])


def _nearest(places: Tensor, side: Tensor, length: int) -> Tensor:
    """The pixel of `length` that each of `side` pixels shows; any pixel for places outside."""
    return (places * length // side[:, None]).clamp_(0, length - 1)
