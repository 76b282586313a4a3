"""Wavelet shrinkage by native code, and on Triton, where every image of a batch has settings of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import constants, jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.colours import inverse
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.wavelet import (
    Plan,
    _level,
    _medians,
    _sigma,
    _taps,
    analyse,
    bank,
    room,
    sizes_of,
    synthesise,
)

# BT.601 with luma in 16 … 235 and chroma in 16 … 240, for RGB in [0, 1].
YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
YCBCR_OFFSET = (16.0, 128.0, 128.0)
_EYE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
# Of RGB and of YCbCr: the matrix from RGB, its inverse, and the offset.
_SPACES = (
    (*chain(*_EYE, *_EYE), 0.0, 0.0, 0.0),
    (*chain(*YCBCR, *inverse(YCBCR)), *YCBCR_OFFSET),
)

_RUN = 2048  # values that a program looks at together
_TILE = 512  # pixels of a program
_SCRATCH = 1 << 30  # bytes of decompositions at a time: about 60 photos with four shifts


@dataclass(frozen=True)
class Choices:
    """How each image of a launch is denoised, and what there is to choose from.

    Attributes:
        wavelet: [M] int64, into `filters`.
        soft, ycbcr: [M] bool.
        shifts: [M] int64, the largest circular shift.
        filters: decomposition low-pass filters.
        depths: levels for each of them.
        most_shifts: the most that `shifts` may say.
    """

    wavelet: Tensor
    soft: Tensor
    ycbcr: Tensor
    shifts: Tensor
    filters: tuple[tuple[float, ...], ...]
    depths: tuple[int, ...]
    most_shifts: int


@torch.library.custom_op("cannonade::wavelet_shrink", mutates_args=())
def wavelet_shrink(
    planes: Tensor, soft: Tensor, low: list[float], depth: int, shifts: int, backend: str
) -> tuple[Tensor, Tensor]:
    """`bayes_shrink` of planes [M, H, W] float64, and which coefficients were kept; soft [M] bool, low the filter."""
    planes = planes.contiguous()
    out, masks = _outputs(planes, len(low), depth, shifts)
    if backend == "triton":
        for rows, plan in _parts(_plan_of_planes(planes, soft, low, depth, shifts)):
            _shrink(out[rows], planes[rows], masks[rows], plan)
        return out, masks
    native.run(
        "wavelet_shrink", out, masks, planes, soft.long(), _filter(low), len(low), depth, shifts, masks.shape[2],
        *planes.shape,
    )  # fmt: skip
    return out, masks


@torch.library.custom_op("cannonade::wavelet_shrink_adjoint", mutates_args=())
def _adjoint(grad: Tensor, masks: Tensor, low: list[float], depth: int, shifts: int, backend: str) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    if backend == "triton":
        soft = torch.zeros(len(grad), dtype=torch.bool, device=grad.device)
        for rows, plan in _parts(_plan_of_planes(grad, soft, low, depth, shifts)):
            _shrink_adjoint(out[rows], grad[rows], masks[rows], plan)
        return out
    native.run(
        "wavelet_shrink_adjoint", out, masks, grad, _filter(low), len(low), depth, shifts, masks.shape[2], *grad.shape
    )
    return out


def _filter(low: list[float]) -> Tensor:
    return torch.tensor(low, dtype=torch.float64)


def _outputs(planes: Tensor, taps: int, depth: int, shifts: int) -> tuple[Tensor, Tensor]:
    count, height, width = planes.shape
    coefficients = sum(3 * rows * columns for rows, columns in sizes_of(height, width, taps, depth)[1:])
    masks = planes.new_empty((count, (shifts + 1) ** 2, coefficients), dtype=torch.uint8)
    return torch.empty_like(planes, memory_format=torch.contiguous_format), masks


@wavelet_shrink.register_fake
def _(
    planes: Tensor, soft: Tensor, low: list[float], depth: int, shifts: int, backend: str
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _outputs(planes, len(low), depth, shifts)


@_adjoint.register_fake
def _(grad: Tensor, masks: Tensor, low: list[float], depth: int, shifts: int, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(
    ctx: Any, inputs: tuple[Tensor, Tensor, list[float], int, int, str], output: tuple[Tensor, Tensor]
) -> None:  # fmt: skip
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.settings = inputs[2:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


wavelet_shrink.register_autograd(_backward, setup_context=_keep)


@torch.library.custom_op("cannonade::denoise_wavelet", mutates_args=())
def denoised(
    images: Tensor, wavelet: Tensor, soft: Tensor, ycbcr: Tensor, shifts: Tensor, filters: list[float], taps: list[int],
    depths: list[int], most_shifts: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Images [N, 3, H, W] denoised on Triton, not clipped, and what `denoise_into` returns.

    The arguments are those of `Choices`; filters stand one after the other, each with its number of taps.
    """
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    choices = _choices(wavelet, soft, ycbcr, shifts, filters, taps, depths, most_shifts)
    return out, *denoise_into(every(out), every(images), choices, None)


@torch.library.custom_op("cannonade::denoise_wavelet_adjoint", mutates_args=())
def _denoised_adjoint(
    grad: Tensor, masks: Tensor, ranges: Tensor, wavelet: Tensor, soft: Tensor, ycbcr: Tensor, shifts: Tensor,
    filters: list[float], taps: list[int], depths: list[int], most_shifts: int,
) -> Tensor:  # fmt: skip
    out = torch.empty_like(grad, memory_format=torch.contiguous_format)
    choices = _choices(wavelet, soft, ycbcr, shifts, filters, taps, depths, most_shifts)
    denoise_adjoint_into(every(out), every(grad), choices, masks, ranges, None)
    return out


def _choices(
    wavelet: Tensor, soft: Tensor, ycbcr: Tensor, shifts: Tensor, filters: list[float], taps: list[int],
    depths: list[int], most_shifts: int,
) -> Choices:  # fmt: skip
    ends = [sum(taps[: number + 1]) for number in range(len(taps))]
    own = tuple(tuple(filters[end - count : end]) for end, count in zip(ends, taps, strict=True))
    return Choices(wavelet, soft, ycbcr, shifts, own, tuple(depths), most_shifts)


@denoised.register_fake
def _(
    images: Tensor, wavelet: Tensor, soft: Tensor, ycbcr: Tensor, shifts: Tensor, filters: list[float], taps: list[int],
    depths: list[int], most_shifts: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    count, _, height, width = images.shape
    sizes = [sizes_of(height, width, own, depth) for own, depth in zip(taps, depths, strict=True)]
    coefficients = max(sum(3 * rows * columns for rows, columns in own[1:]) for own in sizes)
    masks = images.new_empty((3 * count, (most_shifts + 1) ** 2, coefficients), dtype=torch.uint8)
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, masks, images.new_empty((count, 3, 2), dtype=torch.float64)


@_denoised_adjoint.register_fake
def _(
    grad: Tensor, masks: Tensor, ranges: Tensor, wavelet: Tensor, soft: Tensor, ycbcr: Tensor, shifts: Tensor,
    filters: list[float], taps: list[int], depths: list[int], most_shifts: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep_choices(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], *inputs[1:5])
    ctx.settings = inputs[5:]


def _denoised_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _denoised_adjoint(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 8


denoised.register_autograd(_denoised_backward, setup_context=_keep_choices)


def denoise_into(out: Rows, images: Rows, choices: Choices, inside: Tensor | None) -> tuple[Tensor, Tensor]:
    """Denoise RGB images of a buffer.

    Args:
        out, images: of a buffer each.
        choices: a row for each image of the launch.
        inside: [M, 3, H, W] uint8, which gets 0 where the result was clipped to [0, 1]; None for no clipping.

    Returns:
        Which coefficients were kept, [3·M, shifts, coefficients] uint8, and how each channel was stretched, [M, 3, 2]
        float64, its offset and its scale.
    """
    plan = _plan(out, choices)
    masks = torch.empty((3 * len(out), plan.steps, plan.coefficients), dtype=torch.uint8, device=out.buffer.device)
    ranges = plan.filters.new_empty((len(out), 3, 2))
    for rows, part in _parts(plan):
        own = Rows(images.buffer, images.index[rows])
        planes = plan.filters.new_empty((3 * len(part.index), *plan.side))
        with on_device(planes):
            _ranges_kernel[(3 * len(own),)](
                ranges[rows], own.buffer, own.index, *_tables(part), plan.side[0] * plan.side[1], RUN=_RUN,
                num_warps=8, enable_fp_fusion=False,
            )  # fmt: skip
        _to_planes(planes, own, part, ranges[rows], None, adjoint=False)
        _shrink(planes, planes, masks[_thrice(rows)], part)
        where = None if inside is None else inside[rows]
        _to_images(Rows(out.buffer, part.index), planes, part, ranges[rows], where, adjoint=False)
    return masks, ranges


def denoise_adjoint_into(
    to: Rows, grad: Rows, choices: Choices, masks: Tensor, ranges: Tensor, inside: Tensor | None
) -> None:
    """The gradient of `denoise_into`, thresholds and ranges taken as constants."""
    for rows, part in _parts(_plan(to, choices)):
        own = Rows(grad.buffer, grad.index[rows])
        planes = part.filters.new_empty((3 * len(part.index), *part.side))
        where = None if inside is None else inside[rows]
        _to_planes(planes, own, part, ranges[rows], where, adjoint=True)
        _shrink_adjoint(planes, planes, masks[_thrice(rows)], part)
        _to_images(Rows(to.buffer, part.index), planes, part, ranges[rows], None, adjoint=True)


def _thrice(rows: slice) -> slice:
    """The planes of images."""
    return slice(3 * rows.start, 3 * rows.stop)


def _plan(out: Rows, choices: Choices) -> Plan:
    _, channels, height, width = out.buffer.shape
    own = bank(choices.filters, choices.depths, out.buffer.device)
    chosen = torch.stack((choices.soft.long(), choices.shifts.long(), choices.ycbcr.long()), 1)
    return Plan(
        index=out.index,
        table=torch.cat((own.table[choices.wavelet], chosen), 1),
        filters=own.filters[choices.wavelet],
        channels=channels,
        sizes=tuple(
            sizes_of(height, width, len(taps), depth)
            for taps, depth in zip(choices.filters, choices.depths, strict=True)
        ),
        steps=(choices.most_shifts + 1) ** 2,
    )


def _plan_of_planes(planes: Tensor, soft: Tensor, low: list[float], depth: int, shifts: int) -> Plan:
    none = torch.zeros(len(planes), dtype=torch.int64, device=planes.device)
    return _plan(every(planes[:, None]), Choices(none, soft, none, none + shifts, (tuple(low),), (depth,), shifts))


def _parts(plan: Plan) -> Iterator[tuple[slice, Plan]]:
    """As many images at a time as bounds the memory of their decompositions; none where there are no pixels."""
    height, width = plan.side
    values = plan.channels * (height * width + plan.steps * (2 * plan.between + plan.area + plan.coefficients))
    at_once = max(1, _SCRATCH // max(8 * values, 1))
    for start in range(0, len(plan.index) if height * width else 0, at_once):
        rows = slice(start, min(start + at_once, len(plan.index)))
        yield rows, plan.part(rows)


def _shrink(out: Tensor, planes: Tensor, masks: Tensor, plan: Plan) -> None:
    """Planes [M·C, H, W] float64 shrunk, and which coefficients were kept."""
    pyramid = room(plan)
    analyse(planes, masks, pyramid, plan, mirror=True)
    sigma = plan.filters.new_empty(plan.pairs)
    sizes = (plan.channels, plan.steps, *plan.side, plan.coefficients)
    with on_device(planes):
        _sigma_kernel[(plan.pairs,)](
            sigma, pyramid.bands, plan.index, plan.table, *sizes, RUN=_RUN, num_warps=8
        )  # fmt: skip
        _shrink_kernel[(plan.pairs * 3 * plan.depth,)](
            pyramid.bands, masks, sigma, plan.index, plan.table, *sizes, 3 * plan.depth, RUN=_RUN, num_warps=8
        )
    synthesise(out, masks, pyramid, plan, mirror=False)


def _shrink_adjoint(out: Tensor, grad: Tensor, masks: Tensor, plan: Plan) -> None:
    """The adjoint of `_shrink`, thresholds taken as constants."""
    pyramid = room(plan)
    analyse(grad, masks, pyramid, plan, mirror=False)
    synthesise(out, masks, pyramid, plan, mirror=True)


def _tables(plan: Plan) -> tuple[Tensor, ...]:
    return plan.index, plan.table, constants(_SPACES, torch.float64, plan.table.device)


def _to_planes(
    planes: Tensor, images: Rows, plan: Plan, ranges: Tensor, inside: Tensor | None, adjoint: bool
) -> None:  # fmt: skip
    """Channels of their colour space, stretched; or, with `adjoint`, the gradient at them from that at the images."""
    pixels = planes.shape[1:].numel()
    with on_device(planes):
        _planes_kernel[(len(images) * triton.cdiv(pixels, _TILE),)](
            planes, images.buffer, images.index, *_tables(plan), ranges, planes if inside is None else inside, pixels,
            ADJOINT=adjoint, CLIP=inside is not None, TILE=_TILE, enable_fp_fusion=False,
        )  # fmt: skip


def _to_images(
    out: Rows, planes: Tensor, plan: Plan, ranges: Tensor, inside: Tensor | None, adjoint: bool
) -> None:  # fmt: skip
    """The inverse of `_to_planes`, or the last step of its gradient."""
    pixels = planes.shape[1:].numel()
    with on_device(planes):
        _images_kernel[(len(out) * triton.cdiv(pixels, _TILE),)](
            out.buffer, planes, *_tables(plan), ranges, planes if inside is None else inside, pixels,
            ADJOINT=adjoint, CLIP=inside is not None, TILE=_TILE,
        )  # fmt: skip


@jit
def _sigma_kernel(
    sigma_ptr: tl.tensor,
    bands_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    coefficients: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """The noise in a shift of a plane, from its finest diagonal sub-band."""
    pair = tl.program_id(0).to(tl.int64)
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, 0)
    if taps == 0:
        return
    size = ((height + taps - 1) // 2) * ((width + taps - 1) // 2)
    lower, upper, count = _medians(bands_ptr + pair * coefficients + 2 * size, size, RUN)
    tl.store(sigma_ptr + pair, _sigma(lower, upper, count))


@jit
def _shrink_kernel(
    bands_ptr: tl.tensor,
    masks_ptr: tl.tensor,
    sigma_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    coefficients: tl.tensor,
    bands: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """A sub-band's threshold, and its coefficients shrunk by it."""
    pair = (tl.program_id(0) // bands).to(tl.int64)
    band = tl.program_id(0) % bands
    taps = _taps(index_ptr, table_ptr, pair, channels, steps, band // 3)
    if taps == 0:
        return
    high, wide, start = _level(height, width, taps, band // 3)
    size = ((high + taps - 1) // 2) * ((wide + taps - 1) // 2)
    at = pair * coefficients + start + band % 3 * size
    squares = tl.zeros((RUN,), tl.float64)
    for first in range(0, size, RUN):
        place = first + tl.arange(0, RUN)
        value = tl.load(bands_ptr + at + place, mask=place < size, other=0.0)
        squares += value * value
    sigma = tl.load(sigma_ptr + pair)
    variance = sigma * sigma
    spread = tl.sum(squares, 0) / size.to(tl.float64) - variance
    threshold = variance / tl.sqrt(tl.maximum(spread, 2.220446049250313e-16))
    threshold = tl.where(threshold == threshold, threshold, 0.0)  # no number without noise
    reach = tl.where(tl.load(table_ptr + pair // steps // channels * 5 + 2) != 0, threshold, 0.0)
    for first in range(0, size, RUN):
        place = first + tl.arange(0, RUN)
        value = tl.load(bands_ptr + at + place, mask=place < size, other=0.0)
        kept = tl.abs(value) >= threshold
        rest = value - tl.minimum(tl.maximum(value, -reach), reach)
        tl.store(bands_ptr + at + place, tl.where(kept, rest, 0.0), mask=place < size)
        tl.store(masks_ptr + at + place, kept.to(tl.uint8), mask=place < size)


@jit
def _combined(matrix_ptr: tl.tensor, step: tl.tensor, red: tl.tensor, green: tl.tensor, blue: tl.tensor) -> Any:
    """The product of three values with three entries of a matrix that are `step` apart."""
    return (
        tl.load(matrix_ptr) * red + tl.load(matrix_ptr + step) * green + tl.load(matrix_ptr + 2 * step) * blue
    )  # fmt: skip


@jit
def _rgb(images_ptr: tl.tensor, row: tl.tensor, pixels: tl.tensor, pixel: tl.tensor, own: tl.tensor) -> Any:
    """Red, green and blue of an image, in float64."""
    from_ptr = images_ptr + row * 3 * pixels + pixel
    red = tl.load(from_ptr, mask=own, other=0.0).to(tl.float64)
    green = tl.load(from_ptr + pixels, mask=own, other=0.0).to(tl.float64)
    return red, green, tl.load(from_ptr + 2 * pixels, mask=own, other=0.0).to(tl.float64)


@jit
def _ranges_kernel(
    ranges_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    colours_ptr: tl.tensor,
    pixels: tl.tensor,
    RUN: tl.constexpr,
) -> None:
    """By what the channels of an image are stretched to [0, 1]: not at all in RGB, nor where they are constant."""
    plane = tl.program_id(0)
    image, channel = plane // 3, plane % 3
    if tl.load(index_ptr + image) < 0:
        return
    ycbcr = tl.load(table_ptr + image * 5 + 4)
    colour_ptr = colours_ptr + ycbcr * 21
    row = tl.load(images_index_ptr + image)
    least = tl.full((RUN,), float("inf"), tl.float64)
    most = tl.full((RUN,), float("-inf"), tl.float64)
    for first in range(0, tl.where(ycbcr != 0, pixels, 0), RUN):
        pixel = first + tl.arange(0, RUN)
        own = pixel < pixels
        red, green, blue = _rgb(images_ptr, row, pixels, pixel, own)
        value = _combined(colour_ptr + 3 * channel, 1, red, green, blue) + tl.load(colour_ptr + 18 + channel)
        least = tl.minimum(least, tl.where(own, value, float("inf")))
        most = tl.maximum(most, tl.where(own, value, float("-inf")))
    low, high = tl.min(least, 0), tl.max(most, 0)
    tl.store(ranges_ptr + 2 * plane, tl.where(ycbcr != 0, low, 0.0))
    tl.store(ranges_ptr + 2 * plane + 1, tl.where(high > low, high - low, 1.0))


@jit
def _planes_kernel(
    planes_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    colours_ptr: tl.tensor,
    ranges_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    pixels: tl.tensor,
    ADJOINT: tl.constexpr,
    CLIP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    tiles = tl.cdiv(pixels, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    if tl.load(index_ptr + image) < 0:
        return
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = pixel < pixels
    colour_ptr = colours_ptr + tl.load(table_ptr + image * 5 + 4) * 21
    red, green, blue = _rgb(images_ptr, tl.load(images_index_ptr + image), pixels, pixel, own)
    if CLIP:
        mask_ptr = inside_ptr + image * 3 * pixels + pixel
        red = tl.where(tl.load(mask_ptr, mask=own, other=0) != 0, red, 0.0)
        green = tl.where(tl.load(mask_ptr + pixels, mask=own, other=0) != 0, green, 0.0)
        blue = tl.where(tl.load(mask_ptr + 2 * pixels, mask=own, other=0) != 0, blue, 0.0)
    for channel in tl.static_range(3):
        least = tl.load(ranges_ptr + (image * 3 + channel) * 2)
        scale = tl.load(ranges_ptr + (image * 3 + channel) * 2 + 1)
        if ADJOINT:
            value = _combined(colour_ptr + 9 + channel, 3, red, green, blue) * scale
        else:
            value = _combined(colour_ptr + 3 * channel, 1, red, green, blue) + tl.load(colour_ptr + 18 + channel)
            value = (value - least) / scale
        tl.store(planes_ptr + (image * 3 + channel) * pixels + pixel, value, mask=own)


@jit
def _unstretched(
    planes_ptr: tl.tensor,
    ranges_ptr: tl.tensor,
    offset_ptr: tl.tensor,
    plane: tl.tensor,
    pixels: tl.tensor,
    pixel: tl.tensor,
    own: tl.tensor,
    ADJOINT: tl.constexpr,
) -> Any:
    """A channel as the matrix takes it."""
    value = tl.load(planes_ptr + plane * pixels + pixel, mask=own, other=0.0)
    least, scale = tl.load(ranges_ptr + plane * 2), tl.load(ranges_ptr + plane * 2 + 1)
    return value / scale if ADJOINT else value * scale + least - tl.load(offset_ptr)


@jit
def _images_kernel(
    out_ptr: tl.tensor,
    planes_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    colours_ptr: tl.tensor,
    ranges_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    pixels: tl.tensor,
    ADJOINT: tl.constexpr,
    CLIP: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    tiles = tl.cdiv(pixels, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.load(index_ptr + image)
    if row < 0:
        return
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = pixel < pixels
    colour_ptr = colours_ptr + tl.load(table_ptr + image * 5 + 4) * 21
    offset_ptr = colour_ptr + 18
    first = _unstretched(planes_ptr, ranges_ptr, offset_ptr, image * 3, pixels, pixel, own, ADJOINT)
    second = _unstretched(planes_ptr, ranges_ptr, offset_ptr + 1, image * 3 + 1, pixels, pixel, own, ADJOINT)
    third = _unstretched(planes_ptr, ranges_ptr, offset_ptr + 2, image * 3 + 2, pixels, pixel, own, ADJOINT)
    for channel in tl.static_range(3):
        if ADJOINT:
            value = _combined(colour_ptr + channel, 3, first, second, third)
        else:
            value = _combined(colour_ptr + 9 + 3 * channel, 1, first, second, third)
        result = value.to(tl.float32)
        if CLIP:
            is_inside = (result >= 0.0) & (result <= 1.0)
            tl.store(inside_ptr + (image * 3 + channel) * pixels + pixel, is_inside.to(tl.uint8), mask=own)
            result = tl.minimum(tl.maximum(result, 0.0), 1.0)
        tl.store(out_ptr + (row * 3 + channel) * pixels + pixel, result.to(out_ptr.dtype.element_ty), mask=own)


_COLOURS = {"index_ptr": "*i64", "table_ptr": "*i64", "colours_ptr": "*fp64"}
_IMAGES = {"images_ptr": "*fp32", "images_index_ptr": "*i64"}
_SIZES = dict.fromkeys(("channels", "steps", "height", "width", "coefficients"), "i32")


def _colour_case(name: str, adjoint: bool, to_planes: bool) -> Case:
    clip = adjoint == to_planes  # the first step of backward and the last of forward
    read = {"planes_ptr": "*fp64"} | (_IMAGES if to_planes else {})
    return Case(
        name=name,
        kernel=_planes_kernel if to_planes else _images_kernel,
        types=({} if to_planes else {"out_ptr": "*fp32"})
        | read
        | _COLOURS
        | {"ranges_ptr": "*fp64", "inside_ptr": "*u8" if clip else "*fp64", "pixels": "i32"},
        constants={"ADJOINT": adjoint, "CLIP": clip, "TILE": _TILE},
        aligned=("pixels",),
        fusion=not to_planes,
        bytes_per_pixel=39 if clip else 36,
        least_bytes=39 if clip else 36,
        operations=2 * 24,  # those of float64 count twice
    )


CASES = (
    Case(
        name="shrinkage noise",
        kernel=_sigma_kernel,
        types={"sigma_ptr": "*fp64", "bands_ptr": "*fp64", "index_ptr": "*i64", "table_ptr": "*i64"} | _SIZES,
        constants={"RUN": _RUN},
        aligned=("height", "width"),
        warps=8,
        bytes_per_pixel=24,
        least_bytes=24,
        operations=12 * 0.25 * 22 * 12,  # some twenty passes over the coefficients, which stay in the cache
    ),
    Case(
        name="shrinkage",
        kernel=_shrink_kernel,
        types={"bands_ptr": "*fp64", "masks_ptr": "*u8", "sigma_ptr": "*fp64", "index_ptr": "*i64", "table_ptr": "*i64"}
        | _SIZES
        | {"bands": "i32"},
        constants={"RUN": _RUN},
        aligned=("height", "width"),
        warps=8,
        bytes_per_pixel=12 * 25,
        least_bytes=12 * 17,
        operations=12 * 2 * 8,
    ),
    Case(
        name="shrinkage ranges",
        kernel=_ranges_kernel,
        types={"ranges_ptr": "*fp64"} | _IMAGES | _COLOURS | {"pixels": "i32"},
        constants={"RUN": _RUN},
        aligned=("pixels",),
        warps=8,
        fusion=False,
        bytes_per_pixel=36,
        least_bytes=12,
        operations=2 * 3 * 8,
        reason="every channel of YCbCr reads the image, all but the first from the cache",
    ),
    _colour_case("shrinkage to planes", adjoint=False, to_planes=True),
    _colour_case("shrinkage to images", adjoint=False, to_planes=False),
    _colour_case("shrinkage to planes adjoint", adjoint=True, to_planes=True),
    _colour_case("shrinkage to images adjoint", adjoint=True, to_planes=False),
)
