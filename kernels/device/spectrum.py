"""Filters in the Fourier domain by native code and by Triton, their factors drawn in registers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.philox import philox_jit, uniform_jit

_TILE = 256  # frequencies of a program
_VALUES = 1024  # values of a program that copies


class Filter(NamedTuple):
    """Of each image of a launch.

    Attributes:
        keep: [M, C] float32, fractions of rows and columns kept at each end of a channel's spectrum.
        coordinates: [M, 5] int64, of the streams of factors.
        low, high: ends of the factors.
    """

    keep: Tensor
    coordinates: Tensor
    low: float
    high: float


@torch.library.custom_op("cannonade::perturb_spectrum", mutates_args=())
def perturb(
    images: Tensor, keep: Tensor, coordinates: Tensor, low: float, high: float, backend: str
) -> tuple[Tensor, Tensor]:
    """`perturb_spectrum_drawn` of `cannonade.kernels.spectrum`, and where its clip did not act: uint8."""
    own = Filter(keep, coordinates, low, high)
    inside = torch.empty_like(images, memory_format=torch.contiguous_format, dtype=torch.uint8)
    if backend == "native":
        out = _filtered_on_cpu(images, own)
        native.run("clip_values", out, inside, out.numel())
    else:
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        rows = every(out)
        _finish(rows, _filtered(images.float().contiguous(), rows.index, own), inside, clip=True)
    return out, inside


@torch.library.custom_op("cannonade::perturb_spectrum_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor, inside: Tensor, keep: Tensor, coordinates: Tensor, low: float, high: float, backend: str
) -> Tensor:
    grad, own = grad.contiguous(), Filter(keep, coordinates, low, high)
    if backend == "native":
        masked = torch.empty_like(grad)
        native.run("mask_values", masked, grad, inside, grad.numel())
        return _filtered_on_cpu(masked, own)
    out = torch.empty_like(grad)
    perturb_adjoint_into(every(out), every(grad), own, inside)
    return out


@perturb.register_fake
def _(
    images: Tensor, keep: Tensor, coordinates: Tensor, low: float, high: float, backend: str
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out, dtype=torch.uint8)


@_adjoint.register_fake
def _(grad: Tensor, inside: Tensor, keep: Tensor, coordinates: Tensor, low: float, high: float, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[1:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 5


perturb.register_autograd(_backward, setup_context=_keep)


def perturb_into(out: Rows, images: Rows, own: Filter) -> Tensor:
    """Filter and clip images of a buffer; returns where the clip did not act: [M, C, H, W] uint8."""
    filtered = _filtered(_start(images, out.index), out.index, own)
    inside = torch.empty_like(filtered, dtype=torch.uint8)
    _finish(out, filtered, inside, clip=True)
    return inside


def perturb_adjoint_into(to: Rows, grad: Rows, own: Filter, inside: Tensor) -> None:
    """The gradient at the images from that at the results: the filter is its own transpose."""
    _finish(to, _filtered(_start(grad, to.index, inside), to.index, own), inside, clip=False)


def _half_spectrum(batch: Tensor) -> Tensor:
    """[M, C, H, W // 2 + 1, 2], real and imaginary parts."""
    return torch.view_as_real(torch.fft.rfft2(batch)).contiguous()


def _image(half: Tensor, batch: Tensor) -> Tensor:
    image: Tensor = torch.fft.irfft2(torch.view_as_complex(half), s=batch.shape[-2:])
    return image.contiguous()


def _filtered(batch: Tensor, index: Tensor, own: Filter) -> Tensor:
    """Multiply the spectra of float32 images [M, C, H, W]; those with an index below 0 are no images."""
    count, channels, height, width = batch.shape
    if not batch.numel():
        return batch.clone()
    half = _half_spectrum(batch)
    grid = (count * triton.cdiv(height * (width // 2 + 1), _TILE),)
    with on_device(batch):
        _weigh_kernel[grid](
            half, index, own.keep.contiguous(), own.coordinates.contiguous(), float(own.high - own.low), float(own.low),
            channels, height, width, TILE=_TILE,
        )  # fmt: skip
    return _image(half, batch)


def _filtered_on_cpu(images: Tensor, own: Filter) -> Tensor:
    if not images.numel():  # MKL refuses to plan for nothing
        return images.clone(memory_format=torch.contiguous_format)
    half = _half_spectrum(images)
    tensors = own.keep.contiguous(), own.coordinates.contiguous()
    native.run("weigh_spectrum", half, *tensors, float(own.high - own.low), float(own.low), *images.shape)
    return _image(half, images)


def _start(source: Rows, index: Tensor, inside: Tensor | None = None) -> Tensor:
    """A batch of rows in float32, zero where `inside` is; those with an index below 0 are no images."""
    batch = source.buffer.new_empty((len(source), *source.buffer.shape[1:]), dtype=torch.float32)
    values = source.buffer.shape[1:].numel()
    if batch.numel():
        with on_device(batch):
            _start_kernel[(len(batch) * triton.cdiv(values, _VALUES),)](
                batch, index, source.buffer, source.index, batch if inside is None else inside, values,
                MASK=inside is not None, TILE=_VALUES,
            )  # fmt: skip
    return batch


def _finish(out: Rows, batch: Tensor, inside: Tensor, clip: bool) -> None:
    """A batch to its rows, clipped or not."""
    values = batch.shape[1:].numel()
    if batch.numel():
        with on_device(batch):
            _finish_kernel[(len(batch) * triton.cdiv(values, _VALUES),)](
                out.buffer, out.index, batch, inside, values, CLIP=clip, TILE=_VALUES
            )


@jit
def _factor(image_ptr: tl.tensor, element: tl.tensor, scale: tl.tensor, low: tl.tensor) -> Any:
    """Numbers of a stream by their place in it: low + scale·uniform, of the reference's bits."""
    x0, x1, x2, x3 = philox_jit(
        element // 4,
        tl.load(image_ptr + 2),
        tl.load(image_ptr + 3),
        tl.load(image_ptr + 4),
        tl.load(image_ptr),
        tl.load(image_ptr + 1),
    )
    lane = element % 4
    word = tl.where(lane < 2, tl.where(lane == 0, x0, x1), tl.where(lane == 2, x2, x3))
    return (
        tl.fma(uniform_jit(word), scale, 0.0) + low
    )  # rounded twice: compilers do not fuse a sum with a fused product


@jit
def _stays(place: tl.tensor, size: tl.tensor, keep: tl.tensor) -> Any:
    """Whether a frequency along an axis is outside the band that a keep fraction zeroes."""
    first = tl.floor(keep * size.to(tl.float64)).to(tl.int32)
    end = tl.floor((1.0 - keep) * size.to(tl.float64)).to(tl.int32)
    return (place < first) | (place >= end)


@jit
def _weigh_kernel(
    half_ptr: tl.tensor,
    index_ptr: tl.tensor,
    keep_ptr: tl.tensor,
    coordinates_ptr: tl.tensor,
    scale: tl.tensor,
    low: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    columns = width // 2 + 1
    bins = height * columns
    tiles = tl.cdiv(bins, TILE)
    image = tl.program_id(0) // tiles
    if tl.load(index_ptr + image) < 0:
        return
    place = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)[:, None]
    y, x = place // columns, place % columns
    opposite_y, opposite_x = (height - y) % height, (width - x) % width
    stream_ptr = coordinates_ptr + 5 * image
    factor = _factor(stream_ptr, y * width + x, scale, low)
    opposite = _factor(stream_ptr, opposite_y * width + opposite_x, scale, low)
    part = 2 * place + tl.arange(0, 2)[None, :]
    for channel in range(channels):
        keep = tl.load(keep_ptr + image * channels + channel).to(tl.float64)
        weight = tl.where(_stays(y, height, keep) & _stays(x, width, keep), factor, 0.0)
        weight += tl.where(_stays(opposite_y, height, keep) & _stays(opposite_x, width, keep), opposite, 0.0)
        ptr = half_ptr + (image.to(tl.int64) * channels + channel) * (2 * bins) + part
        value = tl.load(ptr, mask=place < bins, other=0.0)
        tl.store(ptr, value * (0.5 * weight), mask=place < bins)


@jit
def _start_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    source_ptr: tl.tensor,
    source_index_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    values: tl.tensor,
    MASK: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """Rows to a batch; `out_index_ptr` says which of them are images."""
    tiles = tl.cdiv(values, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    if tl.load(out_index_ptr + image) < 0:
        return
    element = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = element < values
    value = tl.load(source_ptr + tl.load(source_index_ptr + image) * values + element, mask=own, other=0.0)
    value = value.to(tl.float32)
    if MASK:
        value = tl.where(tl.load(inside_ptr + image * values + element, mask=own, other=0) != 0, value, 0.0)
    tl.store(out_ptr + image * values + element, value, mask=own)


@jit
def _finish_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    source_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    values: tl.tensor,
    CLIP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A batch to rows, clipped or not."""
    tiles = tl.cdiv(values, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    to = tl.load(out_index_ptr + image)
    if to < 0:
        return
    element = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = element < values
    value = tl.load(source_ptr + image * values + element, mask=own, other=0.0)
    if CLIP:
        inside = (value >= 0.0) & (value <= 1.0)
        tl.store(inside_ptr + image * values + element, inside.to(tl.uint8), mask=own)
        value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    tl.store(out_ptr + to * values + element, value.to(out_ptr.dtype.element_ty), mask=own)


# Beside them run a Fourier transform and its inverse, by cuFFT.
CASES = (
    Case(
        name="spectrum weigh",
        kernel=_weigh_kernel,
        types={"half_ptr": "*fp32", "index_ptr": "*i64", "keep_ptr": "*fp32", "coordinates_ptr": "*i64"}
        | {"scale": "fp32", "low": "fp32", "channels": "i32", "height": "i32", "width": "i32"},
        constants={"TILE": _TILE},
        aligned=("height", "width"),
        bytes_per_pixel=24,  # half as many frequencies as pixels, of 8 bytes and three channels, read and written
        least_bytes=24,
        operations=100,  # ten rounds twice a frequency
    ),
    Case(
        name="spectrum start",
        kernel=_start_kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", "source_ptr": "*fp32", "source_index_ptr": "*i64"}
        | {"inside_ptr": "*u8", "values": "i32"},
        constants={"MASK": True, "TILE": _VALUES},
        aligned=("values",),
        bytes_per_pixel=27,
        least_bytes=27,
    ),
    Case(
        name="spectrum finish",
        kernel=_finish_kernel,
        types={
            "out_ptr": "*fp32",
            "out_index_ptr": "*i64",
            "source_ptr": "*fp32",
            "inside_ptr": "*u8",
            "values": "i32",
        },
        constants={"CLIP": True, "TILE": _VALUES},
        aligned=("values",),
        bytes_per_pixel=27,
        least_bytes=27,
    ),
)
