"""Means and medians over windows by native code and by Triton."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.blur import _absent, _place, _start
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.sheets import disk_windows

_TILE = (8, 32)  # rows and columns of a program: their windows overlap, so most of what it reads is in the cache
_REGISTERS = 64  # of a thread of medians: room for eight programs a multiprocessor, and none spilled
_RUN = 4096  # pixels of a plane that are compared at once for its extremes

# Native code takes a window as a row of half-widths, −1 for the rows of the table that it does not have
# (kernels/native/window.h); on Triton, a program finds them from the radius.


@torch.library.custom_op("cannonade::window_mean", mutates_args=())
def window_mean(images: Tensor, radius: Tensor, backend: str) -> Tensor:
    """`disk_mean` of `cannonade.kernels.window`: images [N, C, H, W], radius [N, C] int64."""
    images = images.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        _run("window_mean", out, images, radius=radius)
    else:
        mean_into(every(out), every(images), radius)
    return out


@torch.library.custom_op("cannonade::window_mean_adjoint", mutates_args=())
def _mean_adjoint(grad: Tensor, radius: Tensor, backend: str) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    if backend == "native":
        _run("window_mean_adjoint", out, grad, radius=radius)
    else:
        mean_adjoint_into(every(out), every(grad), radius)
    return out


@torch.library.custom_op("cannonade::window_bilateral", mutates_args=())
def window_bilateral(images: Tensor, radius: Tensor, bounds: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Means of the members, and their numbers: images [N, C, H, W], radius [N, C] int64, bounds [N, C, 2] float32."""
    images, bounds = images.contiguous(), bounds.contiguous()
    out, counts = torch.empty_like(images), torch.empty_like(images, dtype=torch.float32)
    if backend == "native":
        _run("window_bilateral", out, counts, images, bounds, radius=radius)
    else:
        bilateral_into(every(out), every(images), radius, bounds, counts)
    return out, counts


@torch.library.custom_op("cannonade::window_bilateral_adjoint", mutates_args=())
def _bilateral_adjoint(
    grad: Tensor, counts: Tensor, images: Tensor, radius: Tensor, bounds: Tensor, backend: str
) -> Tensor:
    grad, images, bounds = grad.contiguous(), images.contiguous(), bounds.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        _run("window_bilateral_adjoint", out, grad, counts, images, bounds, radius=radius)
    else:
        bilateral_adjoint_into(every(out), every(grad), every(images), radius, bounds, counts)
    return out


@torch.library.custom_op("cannonade::window_median", mutates_args=())
def window_median(images: Tensor, reach: Tensor, disk: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Medians, and the number in its plane of the pixel that each is: int32, −1 for a zero outside.

    Args:
        images: [N, C, H, W].
        reach: [N, C, 2] int64, how far the window reaches up and down, and sideways.
        disk: the window is a disk, which leaves out what lies outside the image; otherwise a box, with zeros there.
        backend: "triton" or "native".
    """
    images = images.contiguous()
    if backend == "native":
        return _native_median(images, reach.flatten(0, 1), disk)
    out, places = torch.empty_like(images), torch.empty_like(images, dtype=torch.int32)
    median_into(every(out), every(images), reach, disk, places)
    return out, places


@torch.library.custom_op("cannonade::window_median_adjoint", mutates_args=())
def _median_adjoint(grad: Tensor, places: Tensor, reach: Tensor, disk: bool, backend: str) -> Tensor:
    grad = grad.contiguous()
    if backend == "native":
        if not disk:
            grad, places = grad.masked_fill(places < 0, 0), places.clamp(min=0)
        out = torch.zeros_like(grad)
        out.flatten(2).scatter_add_(2, places.flatten(2).long(), grad.flatten(2))
        return out
    out = torch.empty_like(grad)
    median_adjoint_into(every(out), every(grad), reach, disk, places)
    return out


def _run(name: str, *tensors: Tensor, radius: Tensor) -> None:
    windows = disk_windows(radius.flatten())
    height, width = tensors[0].shape[2:]
    native.run(name, *tensors, windows, len(windows), height, width, windows.shape[1])


def _native_median(images: Tensor, reach: Tensor, disk: bool) -> tuple[Tensor, Tensor]:
    """`window_median`, with reach [N·C, 2]; zeros are laid around the images of boxes."""
    height, width = images.shape[2:]
    top, left = (0, 0) if disk or not len(reach) else reach.amax(0).tolist()
    around = (left, left, top, top)
    planes = images.flatten(0, 1) if disk else F.pad(images.flatten(0, 1), around)
    rows = torch.arange(-top, top + 1)
    windows = disk_windows(reach[:, 0]) if disk else torch.where(rows.abs() <= reach[:, :1], reach[:, 1:], -1)
    places = torch.empty_like(planes, dtype=torch.int32)
    native.run("window_median_place", places, planes, windows, *planes.shape, windows.shape[1])
    selected = places[:, top : top + height, left : left + width].flatten(1).long()
    values = planes.flatten(1).gather(1, selected).view(images.shape)
    if not disk:
        numbers = torch.arange(height * width, dtype=torch.int32).view(height, width)
        places = F.pad(numbers, around, value=-1).flatten().index_select(0, selected.flatten())
    return values, places.view(images.shape)


@window_mean.register_fake
def _(images: Tensor, radius: Tensor, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_mean_adjoint.register_fake
def _(grad: Tensor, radius: Tensor, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@window_bilateral.register_fake
def _(images: Tensor, radius: Tensor, bounds: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out, dtype=torch.float32)


@_bilateral_adjoint.register_fake
def _(grad: Tensor, counts: Tensor, images: Tensor, radius: Tensor, bounds: Tensor, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@window_median.register_fake
def _(images: Tensor, reach: Tensor, disk: bool, backend: str) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out, dtype=torch.int32)


@_median_adjoint.register_fake
def _(grad: Tensor, places: Tensor, reach: Tensor, disk: bool, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep_radius(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.backend = inputs[2]


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _mean_adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None


def _keep_members(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:3])
    ctx.backend = inputs[3]


def _bilateral_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _bilateral_adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None


def _keep_places(ctx: Any, inputs: tuple[Tensor, Tensor, bool, str], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[1])
    ctx.settings = inputs[2:]


def _median_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _median_adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


window_mean.register_autograd(_mean_backward, setup_context=_keep_radius)
window_bilateral.register_autograd(_bilateral_backward, setup_context=_keep_members)
window_median.register_autograd(_median_backward, setup_context=_keep_places)


def mean_into(out: Rows, images: Rows, radius: Tensor) -> None:
    """Means over disks of images of a buffer; radius [M, C] int64, a row for each image of the launch."""
    _launch(_sum_kernel, out, images, radius.contiguous(), _extremes(images), MEAN=True)


def mean_adjoint_into(out: Rows, grad: Rows, radius: Tensor) -> None:
    """The adjoint of `mean_into`: sums of the shares that each mean gives its pixels."""
    radius = radius.contiguous()
    shares = _scratch(grad)
    _launch(_share_kernel, shares, grad, radius, shares.buffer, COUNTED=False)
    _launch(_sum_kernel, out, shares, radius, shares.buffer, MEAN=False)


def bilateral_into(out: Rows, images: Rows, radius: Tensor, bounds: Tensor, counts: Tensor) -> None:
    """Means of the members of disks, whose numbers go to `counts`.

    Args:
        out, images: of a buffer each.
        radius: [M, C] int64, a row for each image of the launch.
        bounds: [M, C, 2] float32, below and above.
        counts: [M, C, H, W] float32.
    """
    _launch(_bilateral_kernel, out, images, radius.contiguous(), bounds.contiguous(), _extremes(images), counts)


def bilateral_adjoint_into(out: Rows, grad: Rows, images: Rows, radius: Tensor, bounds: Tensor, counts: Tensor) -> None:
    """The adjoint of `bilateral_into` at these images, the members taken as constant."""
    radius = radius.contiguous()
    shares = _scratch(grad)
    _launch(_share_kernel, shares, grad, radius, counts, COUNTED=True)
    _launch(_bilateral_adjoint_kernel, out, images, radius, bounds.contiguous(), shares.buffer)


def median_into(out: Rows, images: Rows, reach: Tensor, disk: bool, places: Tensor) -> None:
    """Medians of images of a buffer; reach [M, C, 2] int64 and places [M, C, H, W] int32 as `window_median` has them."""
    _launch(_median_kernel, out, images, reach.contiguous(), places, DISK=disk, maxnreg=_REGISTERS)


def median_adjoint_into(out: Rows, grad: Rows, reach: Tensor, disk: bool, places: Tensor) -> None:
    """The gradient of `median_into`: a pixel gets that of every window around it that selected it."""
    _launch(_median_adjoint_kernel, out, grad, reach.contiguous(), places, DISK=disk, maxnreg=_REGISTERS)


def _launch(kernel: Any, out: Rows, images: Rows, *parameters: Tensor, **options: int) -> None:
    """A program for every tile of every plane."""
    _, channels, height, width = images.buffer.shape
    rows, columns = _TILE
    tiles = len(images) * channels * triton.cdiv(height, rows) * triton.cdiv(width, columns)
    if not tiles:
        return
    with on_device(images.buffer):
        kernel[(tiles,)](
            out.buffer, out.index, images.buffer, images.index, *parameters, channels, height, width, **options,
            ROWS=rows, COLUMNS=columns,
        )  # fmt: skip


def _scratch(images: Rows) -> Rows:
    """Room for one float32 plane for every plane of a launch."""
    return every(images.buffer.new_empty((len(images), *images.buffer.shape[1:]), dtype=torch.float32))


def _extremes(images: Rows) -> Tensor:
    """The least and the greatest value of each plane of a launch: [M, C, 2] float32."""
    _, channels, height, width = images.buffer.shape
    out = images.buffer.new_empty((len(images), channels, 2), dtype=torch.float32)
    if out.numel():
        with on_device(out):
            _extremes_kernel[(len(images) * channels,)](
                out, images.buffer, images.index, channels, height * width, RUN=_RUN, num_warps=8
            )
    return out


@jit
def _clamped_place(height: tl.tensor, width: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> Any:
    """`_place`, where pixels beyond an edge stand for those on it, and do as they do.

    The compiler cannot tell that the columns follow one another, and gives neighbouring pixels to neighbouring threads:
    neighbours at any distance then come from one or two lines of the cache. With four pixels to a thread, for the sake of
    one wide store, each load in a window would touch four.
    """
    plane, y, x = _place(height, width, ROWS, COLUMNS)
    return plane, tl.minimum(y, height - 1), tl.minimum(x, width - 1)


@jit
def _within(place: tl.tensor, length: tl.tensor) -> Any:
    return place.to(tl.uint32) < length


@jit
def _neighbour(
    ptr: tl.tensor,
    dy: tl.tensor,
    dx: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    other: tl.tensor,
) -> Any:
    """What is (dy, dx) from the pixels at `ptr`, `other` where that is outside."""
    return tl.load(ptr + (dy * width + dx), mask=_within(y + dy, height) & _within(x + dx, width), other=other)


@jit
def _half(dy: tl.tensor, side: tl.tensor, DISK: tl.constexpr) -> Any:
    """The half-width of a window's row; the root of a whole number and a half is never near a whole number."""
    return tl.sqrt((side * side - dy * dy).to(tl.float32) + 0.5).to(tl.int32) if DISK else side


@jit
def _inside_count(y: tl.tensor, x: tl.tensor, radius: tl.tensor, height: tl.tensor, width: tl.tensor) -> Any:
    """How many pixels of the disk around each pixel lie inside the image, as float32."""
    count = tl.zeros_like(y + x)
    for dy in range(-radius, radius + 1):
        half = _half(dy, radius, DISK=True)
        columns = tl.minimum(x + half, width - 1) - tl.maximum(x - half, 0) + 1
        count += tl.where(_within(y + dy, height), columns, 0)
    return count.to(tl.float32)


@jit
def _mean(total: tl.tensor, count: tl.tensor, extremes_ptr: tl.tensor) -> Any:
    """A mean, kept from leaving its plane's range by rounding."""
    least, most = tl.load(extremes_ptr), tl.load(extremes_ptr + 1)
    return tl.minimum(tl.maximum(tl.div_rn(total, count), least), most)


@jit
def _extremes_kernel(
    out_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    channels: tl.tensor,
    pixels: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    plane = tl.program_id(0)
    if tl.load(images_index_ptr + plane // channels) < 0:
        return
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, pixels)
    least = tl.full((RUN,), float("inf"), tl.float32)
    most = tl.full((RUN,), float("-inf"), tl.float32)
    for first in range(0, pixels, RUN):
        place = first + tl.arange(0, RUN)
        own = place < pixels
        value = tl.load(from_ptr + place, mask=own, other=0.0).to(tl.float32)
        least = tl.minimum(least, tl.where(own, value, float("inf")))
        most = tl.maximum(most, tl.where(own, value, float("-inf")))
    tl.store(out_ptr + 2 * plane, tl.min(least, 0))
    tl.store(out_ptr + 2 * plane + 1, tl.max(most, 0))


@jit
def _sum_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    radius_ptr: tl.tensor,
    extremes_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _clamped_place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, images_index_ptr, plane, channels):
        return
    place = y * width + x
    own_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width) + place
    radius = tl.load(radius_ptr + plane).to(tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for dy in range(-radius, radius + 1):
        half = _half(dy, radius, DISK=True)
        for dx in range(-half, half + 1):
            total += _neighbour(own_ptr, dy, dx, y, x, height, width, 0.0).to(tl.float32)
    if MEAN:
        total = _mean(total, _inside_count(y, x, radius, height, width), extremes_ptr + 2 * plane)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, total.to(out_ptr.dtype.element_ty))


@jit
def _share_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    radius_ptr: tl.tensor,
    counts_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    COUNTED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The gradient of each mean over the number of its pixels, which is read or counted."""
    plane, y, x = _place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, grad_index_ptr, plane, channels):
        return
    own = (y < height) & (x < width)
    place = y * width + x
    if COUNTED:
        count = tl.load(counts_ptr + plane.to(tl.int64) * height * width + place, mask=own, other=1.0)
    else:
        radius = tl.load(radius_ptr + plane).to(tl.int32)
        count = tl.where(own, _inside_count(y, x, radius, height, width), 1.0)
    from_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, height * width)
    grad = tl.load(from_ptr + place, mask=own, other=0.0).to(tl.float32)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, tl.div_rn(grad, count), mask=own)


@jit
def _bilateral_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    radius_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    extremes_ptr: tl.tensor,
    counts_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _clamped_place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, images_index_ptr, plane, channels):
        return
    place = y * width + x
    own_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width) + place
    radius = tl.load(radius_ptr + plane).to(tl.int32)
    centre = tl.load(own_ptr).to(tl.float32)
    low = centre - tl.load(bounds_ptr + 2 * plane)
    high = centre + tl.load(bounds_ptr + 2 * plane + 1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    count = tl.zeros((ROWS, COLUMNS), tl.float32)
    for dy in range(-radius, radius + 1):
        half = _half(dy, radius, DISK=True)
        for dx in range(-half, half + 1):
            value = _neighbour(own_ptr, dy, dx, y, x, height, width, float("inf")).to(tl.float32)
            member = (value >= low) & (value <= high)
            total += tl.where(member, value, 0.0)
            count += tl.where(member, 1.0, 0.0)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, _mean(total, count, extremes_ptr + 2 * plane).to(out_ptr.dtype.element_ty))
    tl.store(counts_ptr + plane.to(tl.int64) * height * width + place, count)


@jit
def _bilateral_adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    radius_ptr: tl.tensor,
    bounds_ptr: tl.tensor,
    shares_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _clamped_place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, images_index_ptr, plane, channels):
        return
    place = y * width + x
    own_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width) + place
    share_ptr = shares_ptr + plane.to(tl.int64) * height * width + place
    radius = tl.load(radius_ptr + plane).to(tl.int32)
    below, above = tl.load(bounds_ptr + 2 * plane), tl.load(bounds_ptr + 2 * plane + 1)
    own = tl.load(own_ptr).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for dy in range(-radius, radius + 1):
        half = _half(dy, radius, DISK=True)
        for dx in range(-half, half + 1):
            centre = _neighbour(own_ptr, dy, dx, y, x, height, width, float("inf")).to(tl.float32)
            member = (own >= centre - below) & (own <= centre + above)
            total += tl.load(share_ptr + (dy * width + dx), mask=member, other=0.0)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, total.to(out_ptr.dtype.element_ty))


@jit
def _range(
    own_ptr: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    top: tl.tensor,
    side: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DISK: tl.constexpr,
    OUTSIDE: tl.constexpr,
) -> Any:
    """The least and the greatest value of each window."""
    least = tl.full((y + x).shape, float("inf"), tl.float32)
    most = tl.full((y + x).shape, float("-inf"), tl.float32)
    for dy in range(-top, top + 1):
        half = _half(dy, side, DISK)
        for dx in range(-half, half + 1):
            value = _neighbour(own_ptr, dy, dx, y, x, height, width, OUTSIDE).to(tl.float32)
            least = tl.minimum(least, value)
            most = tl.maximum(most, tl.where(value < float("inf"), value, float("-inf")))
    return least, most


@jit
def _split(
    own_ptr: tl.tensor,
    level: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    top: tl.tensor,
    side: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DISK: tl.constexpr,
    OUTSIDE: tl.constexpr,
) -> Any:
    """How many of each window's values are at most `level`, the greatest of those, and the least of the others."""
    count = tl.zeros(level.shape, tl.float32)
    most = tl.full(level.shape, float("-inf"), tl.float32)
    least = tl.full(level.shape, float("inf"), tl.float32)
    for dy in range(-top, top + 1):
        half = _half(dy, side, DISK)
        for dx in range(-half, half + 1):
            value = _neighbour(own_ptr, dy, dx, y, x, height, width, OUTSIDE).to(tl.float32)
            low = value <= level
            count += tl.where(low, 1.0, 0.0)
            most = tl.maximum(most, tl.where(low, value, float("-inf")))
            least = tl.minimum(least, tl.where(low, float("inf"), value))
    return count, most, least


@jit
def _first(
    own_ptr: tl.tensor,
    wanted: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    top: tl.tensor,
    side: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DISK: tl.constexpr,
    OUTSIDE: tl.constexpr,
) -> Any:
    """The place of each window's first pixel of this value, −1 outside; the window is read from its end."""
    place = tl.zeros(wanted.shape, tl.int32)
    for row in range(0, 2 * top + 1):
        dy = top - row
        half = _half(dy, side, DISK)
        for column in range(0, 2 * half + 1):
            dx = half - column
            value = _neighbour(own_ptr, dy, dx, y, x, height, width, OUTSIDE).to(tl.float32)
            inside = _within(y + dy, height) & _within(x + dx, width)
            number = tl.where(inside, y * width + x + (dy * width + dx), -1)
            place = tl.where(value == wanted, number, place)
    return place


@jit
def _median_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    reach_ptr: tl.tensor,
    places_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DISK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Bisection between two of the window's values, which move to the next ones inwards until they meet.

    Every step leaves out a value at least, so that any values will do, and half of them for those of an image: 5 to 10 steps
    for 81 pixels, where bits of the median found one by one take up to 32, most of them for values that nothing has.
    """
    plane, y, x = _clamped_place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, images_index_ptr, plane, channels):
        return
    place = y * width + x
    own_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width) + place
    top = tl.load(reach_ptr + 2 * plane).to(tl.int32)
    side = tl.load(reach_ptr + 2 * plane + 1).to(tl.int32)
    outside: tl.constexpr = float("inf") if DISK else 0.0
    if DISK:
        below = tl.floor(_inside_count(y, x, side, height, width) * 0.5)
    else:
        below = (((2 * top + 1) * (2 * side + 1)) // 2).to(tl.float32)
    low, high = _range(own_ptr, y, x, top, side, height, width, DISK, outside)
    while tl.max(tl.max((low < high).to(tl.int32), 1), 0) > 0:
        level = 0.5 * low + 0.5 * high
        level = tl.where(level < high, tl.maximum(level, low), low)
        count, most, least = _split(own_ptr, level, y, x, top, side, height, width, DISK, outside)
        low = tl.where(count <= below, least, tl.where(count == below + 1, most, low))
        high = tl.where(count > below, most, tl.where(count == below, least, high))
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, low.to(out_ptr.dtype.element_ty))
    places = _first(own_ptr, low, y, x, top, side, height, width, DISK, outside)
    tl.store(places_ptr + plane.to(tl.int64) * height * width + place, places)


@jit
def _median_adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    reach_ptr: tl.tensor,
    places_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DISK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _clamped_place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, grad_index_ptr, plane, channels):
        return
    place = y * width + x
    own_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, height * width) + place
    place_ptr = places_ptr + plane.to(tl.int64) * height * width + place
    top = tl.load(reach_ptr + 2 * plane).to(tl.int32)
    side = tl.load(reach_ptr + 2 * plane + 1).to(tl.int32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for dy in range(-top, top + 1):
        half = _half(dy, side, DISK)
        for dx in range(-half, half + 1):
            hit = _neighbour(place_ptr, dy, dx, y, x, height, width, -1) == place
            total += tl.load(own_ptr + (dy * width + dx), mask=hit, other=0.0).to(tl.float32)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width)
    tl.store(to + place, total.to(out_ptr.dtype.element_ty))


def _case(name: str, kernel: Any, arguments: str, moved: float, operations: float, **constants: bool) -> Case:
    """Arguments by name: the images or the gradient that is read, and the parameters."""
    source, *parameters = arguments.split()
    types = {"radius": "*i64", "reach": "*i64", "places": "*i32"}
    return Case(
        name=name,
        kernel=kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", f"{source}_ptr": "*fp32", f"{source}_index_ptr": "*i64"}
        | {f"{each}_ptr": types.get(each, "*fp32") for each in parameters}
        | {"channels": "i32", "height": "i32", "width": "i32"},
        constants=constants | {"ROWS": _TILE[0], "COLUMNS": _TILE[1]},
        aligned=("height", "width"),
        bytes_per_pixel=moved,
        least_bytes=moved,
        operations=operations,
        most_registers=_REGISTERS if "median" in name else None,
        approximate="the root that it cuts to a whole number is far from one",
    )


# Operations are those of the largest radius: 29 pixels for means, 81 for medians and 1,257 for bilateral means, at as many
# instructions for each of them as there are in the machine code.
CASES = (
    _case("disk mean", _sum_kernel, "images radius extremes", 24, 3 * 29 * 8, MEAN=True),
    _case("disk mean adjoint", _sum_kernel, "images radius extremes", 24, 3 * 29 * 8, MEAN=False),
    _case("disk mean shares", _share_kernel, "grad radius counts", 24, 0, COUNTED=False),
    _case("bilateral", _bilateral_kernel, "images radius bounds extremes counts", 36, 3 * 1257 * 12),
    _case("bilateral shares", _share_kernel, "grad radius counts", 36, 0, COUNTED=True),
    _case("bilateral adjoint", _bilateral_adjoint_kernel, "images radius bounds shares", 36, 3 * 1257 * 14),
    _case("disk median", _median_kernel, "images reach places", 36, 3 * 81 * 13 * 10, DISK=True),
    _case("disk median adjoint", _median_adjoint_kernel, "grad reach places", 36, 3 * 81 * 11, DISK=True),
    _case("box median", _median_kernel, "images reach places", 36, 3 * 81 * 13 * 10, DISK=False),
    _case("box median adjoint", _median_adjoint_kernel, "grad reach places", 36, 3 * 81 * 11, DISK=False),
    Case(
        name="extremes of planes",
        kernel=_extremes_kernel,
        types={
            "out_ptr": "*fp32",
            "images_ptr": "*fp32",
            "images_index_ptr": "*i64",
            "channels": "i32",
            "pixels": "i32",
        },
        constants={"RUN": _RUN},
        aligned=("pixels",),
        warps=8,
        bytes_per_pixel=12,
        least_bytes=12,
    ),
)
