"""Pointwise colour operations by native code and by Triton: an image's list of them in one pass, in registers."""

from __future__ import annotations

from enum import IntEnum
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.colours import (
    RGB_FROM_XYZ,
    RGB_FROM_YUV,
    WHITE,
    XYZ_FROM_RGB,
    YUV_FROM_RGB,
    clip,
    constant,
    each,
    passed_all,
    rounded_all,
    shift_cie,
    shift_cie_adjoint,
    shift_hsv,
    shift_hsv_adjoint,
    shift_yuv,
    shift_yuv_adjoint,
    times,
    transposed_times,
)
from cannonade.kernels.device.rows import Rows, every


class Operation(IntEnum):
    """What is done to a colour, by its number in a list of operations; −1 does nothing.

    HSV, LAB, XYZ and YUV are shifts, of three parameters; MATRIX is a product with a matrix, of nine, row by row; MIX is one
    clamped to [0, 1] with the gradient of the product; ROUND rounds to multiples of 1/s, of three scales, with the identity
    as gradient; CLIP clips to [0, 1].
    """

    HSV = 0
    LAB = 1
    XYZ = 2
    YUV = 3
    MATRIX = 4
    MIX = 5
    ROUND = 6
    CLIP = 7


_TILE = 512

# What native code is told: the matrices there and back, and the white.
_LAB_CONSTANTS = [*chain(*XYZ_FROM_RGB, *RGB_FROM_XYZ), *WHITE]
_YUV_CONSTANTS = [*chain(*YUV_FROM_RGB, *RGB_FROM_YUV), *WHITE]


@torch.library.custom_op("cannonade::pointwise", mutates_args=())
def pointwise(images: Tensor, parameters: Tensor, operation: int, backend: str) -> Tensor:
    """One operation on every image: images [N, 3, H, W], parameters [N, P] float32; native code has the shifts alone."""
    images = images.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        _run("shift_colours", (out, images), parameters, operation)
    else:
        source = every(images)
        pointwise_into(Rows(out, source.index), source, *_list_of_one(operation, parameters), clamp=False)
    return out


@torch.library.custom_op("cannonade::pointwise_adjoint", mutates_args=())
def _adjoint(grad: Tensor, images: Tensor, parameters: Tensor, operation: int, backend: str) -> Tensor:
    images, grad = images.contiguous(), grad.contiguous()
    out = torch.empty_like(images)
    if backend == "native":
        _run("shift_colours_adjoint", (out, grad, images), parameters, operation)
    else:
        source = every(images)
        to, after = Rows(out, source.index), Rows(grad, source.index)
        pointwise_adjoint_into(to, after, source, *_list_of_one(operation, parameters), clamp=False)
    return out


def _run(name: str, batches: tuple[Tensor, ...], parameters: Tensor, operation: int) -> None:
    constants = torch.tensor(_YUV_CONSTANTS if operation == Operation.YUV else _LAB_CONSTANTS)
    count, pixels = len(batches[0]), batches[0].shape[2:].numel()
    native.run(name, *batches, parameters.contiguous(), constants, operation, count, pixels)


def _list_of_one(operation: int, parameters: Tensor) -> tuple[Tensor, Tensor]:
    operations = torch.full((len(parameters), 1), operation, device=parameters.device)
    return operations, parameters[:, None]


@pointwise.register_fake
def _(images: Tensor, parameters: Tensor, operation: int, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_adjoint.register_fake
def _(grad: Tensor, images: Tensor, parameters: Tensor, operation: int, backend: str) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, str], output: Tensor) -> None:
    images, parameters, ctx.operation, ctx.backend = inputs
    linear = ctx.operation in (Operation.MATRIX, Operation.MIX)
    ctx.save_for_backward(parameters, *(() if linear else (images,)))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    parameters, *images = ctx.saved_tensors
    return _adjoint(grad, *(images or [grad]), parameters, ctx.operation, ctx.backend), None, None, None


pointwise.register_autograd(_backward, setup_context=_keep)


def pointwise_into(out: Rows, images: Rows, operations: Tensor, parameters: Tensor, clamp: bool) -> None:
    """Take each image of a buffer through its own list of operations, in one pass; an image may be written over itself.

    Args:
        operations: [M, L] integers, `Operation`s in their order and −1 for none.
        parameters: [M, L, P] of each operation, P at least 3, and 9 where there are matrices.
        clamp: clip to [0, 1] after each operation.
    """
    _launch(_forward_kernel, (out, images), operations, parameters, clamp)


def pointwise_adjoint_into(
    to: Rows, grad: Rows, images: Rows, operations: Tensor, parameters: Tensor, clamp: bool
) -> None:
    """The gradient with respect to the images that `pointwise_into` read, from that with respect to what it wrote.

    The colours that an operation met are computed again, from the first, where its slope depends on them: lists are short,
    and keeping the colours would take more registers than that takes time.
    """
    _launch(_adjoint_kernel, (to, grad, images), operations, parameters, clamp)


def _launch(kernel: Any, batches: tuple[Rows, ...], operations: Tensor, parameters: Tensor, clamp: bool) -> None:
    count, length = operations.shape
    pixels = batches[0].buffer.shape[2:].numel()
    if not count or not pixels:
        return
    tensors = [tensor for rows in batches for tensor in (rows.buffer, rows.index)]
    with on_device(operations):
        kernel[(count * triton.cdiv(pixels, _TILE),)](
            *tensors, operations.contiguous(), parameters.float().contiguous(),
            pixels, length, parameters.shape[2], CLAMP=clamp, TILE=_TILE,
        )  # fmt: skip


_HSV, _LAB, _XYZ, _YUV, _MATRIX, _MIX, _ROUND, _CLIP = (constant(int(operation)) for operation in Operation)


@jit
def _three(ptr: tl.tensor) -> Any:
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2)


@jit
def _nine(ptr: tl.tensor) -> Any:
    return _three(ptr), _three(ptr + 3), _three(ptr + 6)


# Clamping comes with the operations that may leave [0, 1]; the others stay in it by themselves.
@jit
def _operate(operation: tl.tensor, x: tl.tuple, ptr: tl.tensor, CLAMP: tl.constexpr) -> Any:
    if operation == _HSV:
        x = shift_hsv(x, _three(ptr))
    elif (operation == _LAB) | (operation == _XYZ):
        x = shift_cie(x, _three(ptr), operation == _LAB)
    elif operation == _YUV:
        x = shift_yuv(x, _three(ptr))
    elif operation == _MATRIX:
        x = times(_nine(ptr), x)
        if CLAMP:
            x = each(clip, x)
    elif operation == _MIX:
        x = each(clip, times(_nine(ptr), x))
    elif operation == _ROUND:
        x = rounded_all(x, _three(ptr))
        if CLAMP:
            x = each(clip, x)
    elif operation == _CLIP:
        x = each(clip, x)
    return x


@jit
def _operate_adjoint(operation: tl.tensor, grad: tl.tuple, x: tl.tuple, ptr: tl.tensor, CLAMP: tl.constexpr) -> Any:
    if operation == _HSV:
        grad = shift_hsv_adjoint(grad, x, _three(ptr))
    elif (operation == _LAB) | (operation == _XYZ):
        grad = shift_cie_adjoint(grad, x, _three(ptr), operation == _LAB)
    elif operation == _YUV:
        grad = shift_yuv_adjoint(grad, x, _three(ptr))
    elif operation == _MATRIX:
        matrix = _nine(ptr)
        if CLAMP:
            grad = passed_all(grad, times(matrix, x))
        grad = transposed_times(matrix, grad)
    elif operation == _MIX:
        grad = transposed_times(_nine(ptr), grad)
    elif operation == _ROUND:
        if CLAMP:
            grad = passed_all(grad, rounded_all(x, _three(ptr)))
    elif operation == _CLIP:
        grad = passed_all(grad, x)
    return grad


@jit
def _is_curved(operation: tl.tensor, CLAMP: tl.constexpr) -> Any:
    """Whether the adjoint of an operation needs the colour that the operation met."""
    curved = (operation >= 0) & (operation != _MIX)
    return curved if CLAMP else curved & (operation != _MATRIX) & (operation != _ROUND)


@jit
def _place(n_pixels: tl.tensor, TILE: tl.constexpr) -> Any:
    """Of a program: its image in the launch, and its pixels."""
    tiles = tl.cdiv(n_pixels, TILE)
    return tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)


@jit
def _read(ptr: tl.tensor, pixel: tl.tensor, own: tl.tensor, n_pixels: tl.tensor) -> Any:
    return (
        tl.load(ptr + pixel, mask=own, other=0.0).to(tl.float32),
        tl.load(ptr + n_pixels + pixel, mask=own, other=0.0).to(tl.float32),
        tl.load(ptr + 2 * n_pixels + pixel, mask=own, other=0.0).to(tl.float32),
    )


@jit
def _write(ptr: tl.tensor, x: tl.tuple, pixel: tl.tensor, own: tl.tensor, n_pixels: tl.tensor) -> None:
    for channel in tl.static_range(3):
        tl.store(ptr + channel * n_pixels + pixel, x[channel].to(ptr.dtype.element_ty), mask=own)


@jit
def _forward_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    operations_ptr: tl.tensor,
    parameters_ptr: tl.tensor,
    n_pixels: tl.tensor,
    length: tl.tensor,
    n_parameters: tl.tensor,
    CLAMP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel = _place(n_pixels, TILE)
    row, source = tl.load(out_index_ptr + image), tl.load(images_index_ptr + image)
    if (row < 0) | (source < 0):
        return
    own = pixel < n_pixels
    x = _read(images_ptr + source * 3 * n_pixels, pixel, own, n_pixels)
    for step in range(length):
        number = image * length + step
        x = _operate(tl.load(operations_ptr + number), x, parameters_ptr + number * n_parameters, CLAMP)
    _write(out_ptr + row * 3 * n_pixels, x, pixel, own, n_pixels)


@jit
def _adjoint_kernel(
    to_ptr: tl.tensor,
    to_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    operations_ptr: tl.tensor,
    parameters_ptr: tl.tensor,
    n_pixels: tl.tensor,
    length: tl.tensor,
    n_parameters: tl.tensor,
    CLAMP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    image, pixel = _place(n_pixels, TILE)
    row, source = tl.load(to_index_ptr + image), tl.load(images_index_ptr + image)
    after = tl.load(grad_index_ptr + image)
    if (row < 0) | (source < 0) | (after < 0):
        return
    own = pixel < n_pixels
    start = image * length
    curved = False
    for number in range(start, start + length):
        curved = curved | _is_curved(tl.load(operations_ptr + number), CLAMP)
    first = _read(images_ptr + source * 3 * n_pixels, pixel, own & curved, n_pixels)
    grad = _read(grad_ptr + after * 3 * n_pixels, pixel, own, n_pixels)
    for back in range(length):
        last = start + length - 1 - back
        operation = tl.load(operations_ptr + last)
        x = first
        for number in range(start, tl.where(_is_curved(operation, CLAMP), last, start)):
            x = _operate(tl.load(operations_ptr + number), x, parameters_ptr + number * n_parameters, CLAMP)
        grad = _operate_adjoint(operation, grad, x, parameters_ptr + last * n_parameters, CLAMP)
    _write(to_ptr + row * 3 * n_pixels, grad, pixel, own, n_pixels)


def _case(name: str, one: bool, adjoint: bool) -> Case:
    batches = ("to", "grad", "images") if adjoint else ("out", "images")
    rows = {f"{batch}{part}": kind for batch in batches for part, kind in (("_ptr", "*fp32"), ("_index_ptr", "*i64"))}
    tables = {"operations_ptr": "*i64", "parameters_ptr": "*fp32"}
    sizes = dict.fromkeys(("n_pixels", "n_parameters") if one else ("n_pixels", "length", "n_parameters"), "i32")
    return Case(
        name=name,
        kernel=_adjoint_kernel if adjoint else _forward_kernel,
        types=rows | tables | sizes,
        constants=({"length": 1} if one else {}) | {"CLAMP": not one, "TILE": _TILE},
        aligned=("n_pixels",),
        bytes_per_pixel=12 * len(batches),
        least_bytes=12 * len(batches),
        approximate="shares of a gradient: none is compared or rounded" if adjoint else "",
    )


CASES = (
    _case("pointwise operation", one=True, adjoint=False),
    _case("pointwise operation adjoint", one=True, adjoint=True),
    _case("pointwise list", one=False, adjoint=False),
    _case("pointwise list adjoint", one=False, adjoint=True),
)
