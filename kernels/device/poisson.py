"""Photon counts by Triton: Poisson numbers of each value's own rate, drawn, scaled back and forgotten."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows
from cannonade.kernels.philox import philox_jit

_TILE = 256


def photons_into(
    out: Rows, images: Rows, grad: Rows, coordinates: Tensor, levels: Tensor, tables: tuple[Tensor, ...], adjoint: bool
) -> None:
    """Counts of images·levels over levels, clipped to [0, 1]; with `adjoint`, the gradient at the images.

    Args:
        out: what is written.
        images: read by both.
        grad: the gradient at the results; the images again where there is none.
        coordinates: [M, 5] int64 of the streams, element e of which takes the four words of counter block e.
        levels: [M, C] float32, counts at full intensity.
        tables: thresholds, the number that each row begins with, and where it begins: those of all three steps in one.
        adjoint: the gradient goes through where the clip did not act, as through the identity.
    """
    _, channels, height, width = images.buffer.shape
    tiles = len(images) * triton.cdiv(channels * height * width, _TILE)
    if not tiles:
        return
    with on_device(images.buffer):
        _photon_kernel[(tiles,)](
            out.buffer, out.index, images.buffer, images.index, grad.buffer, grad.index, coordinates.contiguous(),
            levels.contiguous(), *tables, channels, height * width, ADJOINT=adjoint, TILE=_TILE,
        )  # fmt: skip


@jit
def _by_table(
    row: tl.tensor,
    word: tl.tensor,
    keys_ptr: tl.tensor,
    first_ptr: tl.tensor,
    start_ptr: tl.tensor,
    BEFORE: tl.constexpr,
    BITS: tl.constexpr,
) -> Any:
    """Poisson numbers of a table's rows by bisection; rows end with a threshold beyond every word."""
    key = row.to(tl.int64) * 8589934592 + word.to(tl.int64)
    start = tl.load(start_ptr + BEFORE + row)
    place = start
    for bit in tl.static_range(BITS):
        far = 1 << (BITS - 1 - bit)
        place = tl.where(tl.load(keys_ptr + place + (far - 1)) <= key, place + far, place)
    return (place - start + tl.load(first_ptr + BEFORE + row)).to(tl.int32)


@jit
def _below_one(rate: tl.tensor, word: tl.tensor) -> Any:
    """Poisson numbers of float64 rates below 1, by summing the law until it passes the word."""
    target = word.to(tl.float64) * 2.3283064365386963e-10
    term = tl.exp(-rate)
    below = term
    count = tl.zeros(word.shape, tl.int32)
    for k in tl.static_range(1, 14):  # 14 or more have a probability below 2⁻³³
        count += (target >= below).to(tl.int32)
        term = term * rate / k
        below += term
    return count


@jit
def _photon_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    coordinates_ptr: tl.tensor,
    levels_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    first_ptr: tl.tensor,
    start_ptr: tl.tensor,
    channels: tl.tensor,
    n_pixels: tl.tensor,
    ADJOINT: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    values = channels * n_pixels
    tiles = tl.cdiv(values, TILE)
    image = tl.program_id(0) // tiles
    row, source = tl.load(out_index_ptr + image), tl.load(images_index_ptr + image)
    after = tl.load(grad_index_ptr + image)
    if (row < 0) | (source < 0) | (after < 0):
        return
    element = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = element < values
    stream = coordinates_ptr + image * 5
    x0, x1, x2, x3 = philox_jit(
        element,
        tl.load(stream + 2),
        tl.load(stream + 3),
        tl.load(stream + 4),
        tl.load(stream),
        tl.load(stream + 1),
    )
    levels = tl.load(levels_ptr + image * channels + element // n_pixels, mask=own, other=1.0)
    value = tl.load(images_ptr + source * values + element, mask=own, other=0.0).to(tl.float32)
    rate = tl.where(value > 0.0, value, 0.0) * levels
    rate = tl.where(rate < 270335.0, rate, 270335.0)  # what is not below is not in [0, 1] either
    whole = tl.floor(rate)
    count = _below_one((rate - whole).to(tl.float64), x0)
    index = whole.to(tl.int32)
    # Tables of rates in steps of 1, 128 and 8192 have 128, 64 and 33 rows of less than 2⁸, 2¹¹ and 2¹³ numbers.
    count += _by_table(index % 128, x1, keys_ptr, first_ptr, start_ptr, 0, 8)
    if tl.max(index, 0) >= 128:
        count += _by_table(index // 128 % 64, x2, keys_ptr, first_ptr, start_ptr, 128, 11)
    if tl.max(index, 0) >= 8192:
        count += _by_table(index // 8192, x3, keys_ptr, first_ptr, start_ptr, 192, 13)
    result = tl.div_rn(count.to(tl.float32), levels)
    if ADJOINT:
        grad = tl.load(grad_ptr + after * values + element, mask=own, other=0.0).to(tl.float32)
        written = tl.where(result <= 1.0, grad, 0.0)
    else:
        written = tl.minimum(result, 1.0)
    tl.store(out_ptr + row * values + element, written.to(out_ptr.dtype.element_ty), mask=own)


def _case(name: str, adjoint: bool) -> Case:
    pointers = ("out", "images", "grad")
    return Case(
        name=name,
        kernel=_photon_kernel,
        types={f"{of}_{part}": kind for of in pointers for part, kind in (("ptr", "*fp32"), ("index_ptr", "*i64"))}
        | {
            "coordinates_ptr": "*i64",
            "levels_ptr": "*fp32",
            "keys_ptr": "*i64",
            "first_ptr": "*i64",
            "start_ptr": "*i64",
        }
        | {"channels": "i32", "n_pixels": "i32"},
        constants={"ADJOINT": adjoint, "TILE": _TILE},
        aligned=("n_pixels",),
        bytes_per_pixel=36 if adjoint else 24,
        least_bytes=36 if adjoint else 24,
        operations=3 * (40 + 2 * 13 * 12 + 19 * 6),  # ten rounds, 13 terms in float64, and bisections of two tables
    )


CASES = (_case("photons", False), _case("photons adjoint", True))
