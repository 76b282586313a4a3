"""Philox-4x32-10: the counter-based generator behind every random number.

Device kernels draw in registers with `philox_jit`, `uniform_jit` and `normal_jit`, which have the definitions of the
functions here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels import native
from cannonade.kernels.backend import Backend, choose, jit, on_device, tl, triton

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_UNIT = 2.0**-24
_ANGLE = 2 * math.pi * _UNIT
# Counters of one slice on a CPU: a round then stays in a core's cache, and PyTorch runs each of its hundred short
# operations on one thread. Shared between two threads they were no faster, and slower by far on a busy machine.
_SLICE = 1 << 15
# Pairs of normals made at once: PyTorch shares logarithms and cosines between threads, so these are cut less finely.
_PAIRS = 1 << 18
_TILE = 256  # counters of one Triton program

Words = tuple[Tensor, Tensor, Tensor, Tensor]
Kind = Literal["words", "uniform", "normal"]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Four 32-bit words for each counter: ten rounds of Philox-4x32.

    Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11, section 3.3.

    Args:
        counter: four int64 tensors with values in [0, 2^32), of shapes that broadcast together.
        key: two int64 tensors with values in [0, 2^32), broadcasting with the counter.

    Returns:
        Four int64 tensors of the broadcast shape with values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(_ROUNDS):
        if number:
            k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
        # Products wrap modulo 2^64: the bits are those of the unsigned product. The factors c0 and c2 must be masked;
        # c1 and c3 only meet an exclusive or that is masked afterwards, so their high halves may hold anything.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & _MASK, p0
    return c0, c1 & _MASK, c2, c3 & _MASK


def draw(coordinates: Tensor, count: int, kind: Kind = "words", backend: Backend = "auto") -> Tensor:
    """The first `count` random numbers of each stream.

    Element e of a stream comes from word e % 4 of the counter (e // 4, image, query, site).

    Args:
        coordinates: [N, 5] int64 in [0, 2^32): two words of key, image id, query number and site.
        count: numbers per stream, at most 2^34.
        kind: "words"; "uniform" for (word >> 8)·2⁻²⁴; or "normal" for Box-Muller, where elements 2i and 2i + 1 are
            √(−2 ln u)·cos v and √(−2 ln u)·sin v with u = ((word 2i >> 8) + 1)·2⁻²⁴ and v = (word 2i+1 >> 8)·2π·2⁻²⁴.
        backend: "auto", "triton", "native" or "torch". Words and uniforms have the same bits on each, normals agree to 2e-6.

    Returns:
        [N, count], int64 in [0, 2^32) for words and float32 otherwise.

    Raises:
        InputError: the coordinates, the count, the kind or the backend cannot be used.
    """
    if coordinates.dim() != 2 or coordinates.shape[1] != 5 or coordinates.dtype != torch.int64:
        raise InputError(f"coordinates must be [N, 5] int64, got {list(coordinates.shape)} {coordinates.dtype}")
    if not 0 <= count <= 1 << 34:
        raise InputError(f"a stream has 2^34 numbers, got a count of {count}; draw the rest at another site")
    if kind not in get_args(Kind):
        raise InputError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    chosen = choose(backend, coordinates, native=True, on_gpu=True)
    if chosen != "torch":
        drawn: Tensor = (_draw_triton if chosen == "triton" else _draw_native)(coordinates, count, kind)
        return drawn
    blocks = -(-count // 4)
    out = torch.empty(len(coordinates), blocks, 4, dtype=_dtype(kind), device=coordinates.device)
    for rows, columns in slices(len(coordinates), blocks, coordinates.device):
        for lane, word in enumerate(stream_blocks(coordinates[rows], columns)):
            out[rows, columns, lane] = word if kind == "words" else word >> 8
    return _finished(out.flatten(1), kind)[:, :count]


def convert(words: Tensor, kind: Kind, backend: Backend = "auto") -> Tensor:
    """The numbers of a kind that whole counter blocks of words give: [N, 4·blocks] int64 to [N, 4·blocks].

    The bits are those of `draw` on the same backend on a CPU. On a GPU, PyTorch makes the normals from the words.
    """
    if kind == "normal" and choose(backend, words, native=True, on_gpu=True) == "native":
        normal: Tensor = _convert_native(words)
        return normal
    return words if kind == "words" else _finished((words >> 8).float().contiguous(), kind)


def stream_blocks(coordinates: Tensor, columns: slice) -> Words:
    """The words of a range of counter blocks of each stream: four [N, blocks] int64."""
    blocks = torch.arange(columns.start, columns.stop, device=coordinates.device)[None]
    k0, k1, image, query, site = coordinates[:, :, None].unbind(1)
    return philox((blocks, image, query, site), (k0, k1))


def slices(rows: int, columns: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Ranges of rows and columns that cover a table of counters, cut to the cache on a CPU."""
    size = _SLICE if device.type == "cpu" else max(rows * columns, 1)
    wide = max(min(columns, size), 1)
    high = size // wide
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            yield slice(row, min(row + high, rows)), slice(column, min(column + wide, columns))


def _dtype(kind: str) -> torch.dtype:
    return torch.int64 if kind == "words" else torch.float32


def _finished(out: Tensor, kind: Kind) -> Tensor:
    """Numbers from the high 24 bits of their words, in place: contiguous [N, 4·blocks]."""
    if kind == "uniform":
        out.mul_(_UNIT)
    if kind == "normal":
        for first, second in (pairs.unbind(1) for pairs in out.view(-1, 2).split(_PAIRS)):
            radius = (first + 1).mul_(_UNIT).log_().mul_(-2).sqrt_()
            angle = second * _ANGLE
            torch.mul(radius, angle.cos(), out=first)
            torch.mul(radius, angle.sin_(), out=second)
    return out


@jit
def philox_jit(
    block: tl.tensor,
    image: tl.tensor,
    query: tl.tensor,
    site: tl.tensor,
    key0: tl.tensor,
    key1: tl.tensor,
) -> Any:
    """The four uint32 words of a counter, as `philox` gives them: integer tensors of shapes that broadcast together."""
    return tl.philox_impl(
        block.to(tl.uint32),
        image.to(tl.uint32),
        query.to(tl.uint32),
        site.to(tl.uint32),
        key0.to(tl.uint32),
        key1.to(tl.uint32),
    )


@jit
def uniform_jit(word: tl.tensor) -> Any:
    """A uniform number in [0, 1) from a word."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08


@jit
def normal_jit(first: tl.tensor, second: tl.tensor) -> Any:
    """Two standard normal numbers from two words."""
    u = ((first >> 8).to(tl.float32) + 1) * 5.9604644775390625e-08
    radius = tl.sqrt_rn(tl.log(u) * -2)
    angle = (second >> 8).to(tl.float32) * 3.7450702829239286e-07
    return radius * tl.cos(angle), radius * tl.sin(angle)


@jit
def _draw_kernel(
    out_ptr: tl.tensor,
    coordinates_ptr: tl.tensor,
    n_rows: tl.tensor,
    n_blocks: tl.tensor,
    count: tl.tensor,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    tiles = tl.cdiv(n_blocks, BLOCKS)
    row = (tl.program_id(0) // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    first = (tl.program_id(0) % tiles) * BLOCKS
    own = row < n_rows
    row_ptr = coordinates_ptr + row.to(tl.int64) * 5
    key0 = tl.load(row_ptr, mask=own, other=0)
    key1 = tl.load(row_ptr + 1, mask=own, other=0)
    image = tl.load(row_ptr + 2, mask=own, other=0)
    query = tl.load(row_ptr + 3, mask=own, other=0)
    site = tl.load(row_ptr + 4, mask=own, other=0)
    x0, x1, x2, x3 = philox_jit(first + tl.arange(0, BLOCKS)[None, :], image, query, site, key0, key1)
    if KIND == "words":
        x0, x1, x2, x3 = x0.to(tl.int64), x1.to(tl.int64), x2.to(tl.int64), x3.to(tl.int64)
    elif KIND == "uniform":
        x0, x1, x2, x3 = uniform_jit(x0), uniform_jit(x1), uniform_jit(x2), uniform_jit(x3)
    else:
        x0, x1 = normal_jit(x0, x1)
        x2, x3 = normal_jit(x2, x3)
    # Nested so that the last two dimensions, flattened, are words 0 to 3: a thread then writes them as one vector.
    values = tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), (ROWS, 4 * BLOCKS))
    element = first.to(tl.int64) * 4 + tl.arange(0, 4 * BLOCKS)[None, :]
    tl.store(out_ptr + row.to(tl.int64) * count + element, values, mask=own & (element < count))


@torch.library.custom_op("cannonade::draw", mutates_args=())
def _draw_triton(coordinates: Tensor, count: int, kind: str) -> Tensor:
    out = coordinates.new_empty((len(coordinates), count), dtype=_dtype(kind))
    blocks = -(-count // 4)
    if out.numel() == 0:
        return out
    wide = min(triton.next_power_of_2(blocks), _TILE)
    high = _TILE // wide
    grid = (triton.cdiv(len(coordinates), high) * triton.cdiv(blocks, wide),)
    with on_device(out):
        _draw_kernel[grid](
            out, coordinates.contiguous(), len(coordinates), blocks, count, KIND=kind, ROWS=high, BLOCKS=wide
        )
    return out


@_draw_triton.register_fake
def _(coordinates: Tensor, count: int, kind: str) -> Tensor:
    return coordinates.new_empty((coordinates.shape[0], count), dtype=_dtype(kind))


@torch.library.custom_op("cannonade::draw_native", mutates_args=())
def _draw_native(coordinates: Tensor, count: int, kind: str) -> Tensor:
    out = coordinates.new_empty((len(coordinates), count), dtype=_dtype(kind))
    native.run(f"draw_{kind}", out, coordinates.contiguous(), len(coordinates), count)
    return out


@_draw_native.register_fake
def _(coordinates: Tensor, count: int, kind: str) -> Tensor:
    return coordinates.new_empty((coordinates.shape[0], count), dtype=_dtype(kind))


@torch.library.custom_op("cannonade::convert_native", mutates_args=())
def _convert_native(words: Tensor) -> Tensor:
    out = words.new_empty(words.shape, dtype=torch.float32)
    native.run("convert_normal", out, words.contiguous(), words.numel())
    return out


@_convert_native.register_fake
def _(words: Tensor) -> Tensor:
    return words.new_empty(words.shape, dtype=torch.float32)
