"""Gaussian blur by native code and by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

_TILE = {0: (8, 128), 1: (8, 128)}  # rows and columns of a program, by direction


@torch.library.custom_op("cannonade::gaussian_blur", mutates_args=())
def blur(images: Tensor, sigma: Tensor, halves: Tensor, mirror: bool, backend: str) -> Tensor:
    """`gaussian_blur` of `cannonade.kernels.blur`: images [N, C, H, W], sigma [N, C, 2] float64, halves [N, C, 2] int64."""
    images = images.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        _run("gaussian_blur", out, images, sigma, halves, mirror)
    else:
        blur_into(every(out), every(images), sigma, halves, mirror)
    return out


@torch.library.custom_op("cannonade::gaussian_blur_adjoint", mutates_args=())
def _adjoint(grad: Tensor, sigma: Tensor, halves: Tensor, mirror: bool, backend: str) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    if backend == "native":
        _run("gaussian_blur_adjoint", out, grad, sigma, halves, mirror)
    else:
        blur_adjoint_into(every(out), every(grad), sigma, halves, mirror)
    return out


def _run(name: str, out: Tensor, images: Tensor, sigma: Tensor, halves: Tensor, mirror: bool) -> None:
    count, channels, height, width = images.shape
    arguments = (sigma.contiguous(), halves.contiguous(), int(mirror), count * channels, height, width)
    native.run(name, out, images, *arguments)


@blur.register_fake
def _(images: Tensor, sigma: Tensor, halves: Tensor, mirror: bool, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_adjoint.register_fake
def _(grad: Tensor, sigma: Tensor, halves: Tensor, mirror: bool, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool, str], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None


blur.register_autograd(_backward, setup_context=_keep)


def blur_into(out: Rows, images: Rows, sigma: Tensor, halves: Tensor, mirror: bool) -> None:
    """Blur images of a buffer, columns first; sigma and halves have a row for each image of the launch."""
    between = _between(images)
    _launch(_blur_kernel, between, images, sigma, halves, mirror, 0)
    _launch(_blur_kernel, out, between, sigma, halves, mirror, 1)


def blur_adjoint_into(out: Rows, grad: Rows, sigma: Tensor, halves: Tensor, mirror: bool) -> None:
    """The adjoint of `blur_into`, rows first."""
    between = _between(grad)
    _launch(_adjoint_kernel, between, grad, sigma, halves, mirror, 1)
    _launch(_adjoint_kernel, out, between, sigma, halves, mirror, 0)


def _between(images: Rows) -> Rows:
    return every(images.buffer.new_empty((len(images), *images.buffer.shape[1:]), dtype=torch.float32))


def _launch(kernel: Any, out: Rows, images: Rows, sigma: Tensor, halves: Tensor, mirror: bool, along: int) -> None:
    _, channels, height, width = images.buffer.shape
    if not len(images) or not height * width:
        return
    rows, columns = _TILE[along]
    grid = (len(images) * channels * triton.cdiv(height, rows) * triton.cdiv(width, columns),)
    with on_device(images.buffer):
        kernel[grid](
            out.buffer, out.index, images.buffer, images.index, sigma.float().contiguous(), halves.contiguous(),
            channels, height, width, MIRROR=mirror, ALONG=along, ROWS=rows, COLUMNS=columns,
        )  # fmt: skip


@jit
def _place(height: tl.tensor, width: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> Any:
    """Of a program: its plane, and the rows [ROWS, 1] and columns [1, COLUMNS] of its pixels."""
    tiles = tl.cdiv(width, COLUMNS)
    bands = tl.cdiv(height, ROWS)
    number = tl.program_id(0)
    x = (number % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    y = (number // tiles % bands) * ROWS + tl.arange(0, ROWS)[:, None]
    return number // (tiles * bands), y, x


@jit
def _absent(index_ptr: tl.tensor, other_ptr: tl.tensor, plane: tl.tensor, channels: tl.tensor) -> Any:
    """Whether a plane of the launch is none of an image, by what is written and by what is read."""
    return (tl.load(index_ptr + plane // channels) < 0) | (tl.load(other_ptr + plane // channels) < 0)


@jit
def _start(index_ptr: tl.tensor, plane: tl.tensor, channels: tl.tensor, pixels: tl.tensor) -> Any:
    """Where a plane of the launch begins in its buffer."""
    return (tl.load(index_ptr + plane // channels) * channels + plane % channels) * pixels


@jit
def _weight(t: tl.tensor, sigma: tl.tensor) -> Any:
    distance = t / sigma
    return tl.exp(-0.5 * distance * distance)


@jit
def _total(half: tl.tensor, sigma: tl.tensor) -> Any:
    """What the weights sum to before they are normalised."""
    total = 1.0
    for t in range(1, half + 1):
        total += 2 * _weight(t, sigma)
    return total


@jit
def _inside(place: tl.tensor, length: tl.tensor, MIRROR: tl.constexpr) -> Any:
    if MIRROR:
        place = tl.abs(place)
        return tl.minimum(place, 2 * (length - 1) - place)
    return tl.minimum(tl.maximum(place, 0), length - 1)


@jit
def _blur_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    sigma_ptr: tl.tensor,
    halves_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    MIRROR: tl.constexpr,
    ALONG: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, images_index_ptr, plane, channels):
        return
    own = (y < height) & (x < width)
    from_ptr = images_ptr + _start(images_index_ptr, plane, channels, height * width)
    sigma = tl.load(sigma_ptr + 2 * plane + ALONG)
    half = tl.load(halves_ptr + 2 * plane + ALONG).to(tl.int32)
    total = _total(half, sigma)
    values = tl.load(from_ptr + y * width + x, mask=own, other=0.0).to(tl.float32)
    least, most = values, values
    result = values / total
    for t in range(1, half + 1):
        if ALONG == 0:
            before = _inside(y - t, height, MIRROR) * width + x
            after = _inside(y + t, height, MIRROR) * width + x
        else:
            before = y * width + _inside(x - t, width, MIRROR)
            after = y * width + _inside(x + t, width, MIRROR)
        first = tl.load(from_ptr + before, mask=own, other=0.0).to(tl.float32)
        last = tl.load(from_ptr + after, mask=own, other=0.0).to(tl.float32)
        least = tl.minimum(least, tl.minimum(first, last))
        most = tl.maximum(most, tl.maximum(first, last))
        result += (first + last) * (_weight(t, sigma) / total)
    result = tl.minimum(tl.maximum(result, least), most)  # rounding would let a mean leave its values
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width) + y * width + x
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    sigma_ptr: tl.tensor,
    halves_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    MIRROR: tl.constexpr,
    ALONG: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    plane, y, x = _place(height, width, ROWS, COLUMNS)
    if _absent(out_index_ptr, grad_index_ptr, plane, channels):
        return
    own = (y < height) & (x < width)
    from_ptr = grad_ptr + _start(grad_index_ptr, plane, channels, height * width)
    sigma = tl.load(sigma_ptr + 2 * plane + ALONG)
    half = tl.load(halves_ptr + 2 * plane + ALONG).to(tl.int32)
    total = _total(half, sigma)
    if ALONG == 0:
        place, length, stride, line = y, height, width, x
    else:
        place, length, stride, line = x, width, 1, y * width
    last = length - 1
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    beyond = 0.0  # the weights from t on outwards, of which an edge pixel has all that fall outside
    for step in range(0, 2 * half + 1):
        t = half - step
        weight = _weight(t, sigma) / total
        beyond += weight
        source = place + t
        if MIRROR:
            share = tl.where(place >= 0, weight, weight)
        else:
            edge = tl.where(place == 0, beyond, 1 - beyond + weight)
            share = tl.where((place > 0) & (place < last), weight, tl.where(length == 1, 1.0, edge))
        there = own & (source >= 0) & (source < length)
        result += share * tl.load(from_ptr + line + source * stride, mask=there, other=0.0).to(tl.float32)
        if MIRROR:
            source = t - place
            there = own & (source >= 0) & (source < length) & (place > 0)
            result += weight * tl.load(from_ptr + line + source * stride, mask=there, other=0.0).to(tl.float32)
            source = 2 * last - place + t
            there = own & (source >= 0) & (source < length) & (place < last)
            result += weight * tl.load(from_ptr + line + source * stride, mask=there, other=0.0).to(tl.float32)
    to = out_ptr + _start(out_index_ptr, plane, channels, height * width) + y * width + x
    tl.store(to, result.to(out_ptr.dtype.element_ty), mask=own)


def _case(name: str, kernel: Any, along: int) -> Case:
    images, grad = ("images_ptr", "images_index_ptr"), ("grad_ptr", "grad_index_ptr")
    source = images if kernel is _blur_kernel else grad
    return Case(
        name=name,
        kernel=kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", source[0]: "*fp32", source[1]: "*i64"}
        | {"sigma_ptr": "*fp32", "halves_ptr": "*i64", "channels": "i32", "height": "i32", "width": "i32"},
        constants={"MIRROR": False, "ALONG": along, "ROWS": _TILE[along][0], "COLUMNS": _TILE[along][1]},
        aligned=("height", "width"),
        bytes_per_pixel=24,
        least_bytes=24,
        operations=3 * 25 * 4,  # 25 taps at σ = 3, and their weights
        approximate="the weights are normalised by their own sum; nothing is rounded afterwards",
    )


CASES = (
    _case("blur down", _blur_kernel, 0),
    _case("blur across", _blur_kernel, 1),
    _case("blur down adjoint", _adjoint_kernel, 0),
    _case("blur across adjoint", _adjoint_kernel, 1),
)
