"""Poisson numbers of any rate, from the words of counter blocks and tables of integer thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels import native
from cannonade.kernels.backend import Backend, carry, choose
from cannonade.kernels.device.poisson import photons_into
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.philox import Words, slices, stream_blocks

_WORD = 1 << 32
_ROWS = {1: 128, 128: 64, 8192: 33}  # rows of the table of each step
_RATES = 33 * 8192
_PADDING = 1 << 13  # more than the longest row: native code searches all rows of a table in as many steps
# The names of the native code by the rates' dtype; the other dtypes are few, and PyTorch serves them.
_NATIVE = {torch.float32: "draw_poisson_float", torch.float64: "draw_poisson_double"}


def poisson(coordinates: Tensor, rates: Tensor, backend: Backend = "auto") -> Tensor:
    """Poisson numbers of the given rates.

    A rate is split into a multiple of 8192, a multiple of 128 below 8192, an integer below 128 and a fraction; the four
    parts are independent Poisson numbers, the first three by inversion in tables of 32-bit thresholds, the last by a
    sum. Element e uses the four words of counter block e, so every part is exact to 2⁻³².

    Args:
        coordinates: [N, 5] int64 in [0, 2^32), as `cannonade.kernels.philox.draw` takes them.
        rates: [N, M] in [0, 270,336).
        backend: "auto", "native" or "torch".

    Returns:
        [N, M] float32.

    Raises:
        InputError: a rate is outside the range, or the backend cannot be used.
    """
    if rates.numel():
        low, high = map(float, rates.aminmax())  # both are NaN if a rate is
        if not 0 <= low <= high < _RATES:
            raise InputError(f"rate must be in [0, {_RATES}), got {low} to {high}")
    if backend == "triton":
        raise InputError('backend "triton" has no Poisson numbers; use "torch" or "auto"')
    if choose(backend, rates, native=rates.dtype in _NATIVE) == "native":
        numbers: Tensor = _poisson_native(coordinates, rates)
        return numbers
    total = torch.empty(rates.shape, dtype=torch.float32, device=rates.device)
    for rows, columns in slices(rates.shape[0], rates.shape[1], rates.device):
        total[rows, columns] = _poisson(rates[rows, columns], stream_blocks(coordinates[rows], columns))
    return total


def _poisson(rates: Tensor, words: Words) -> Tensor:
    """Poisson numbers of rates [N, M] from the words of as many counter blocks: [N, M] int64."""
    wide = rates.double()
    whole = wide.floor()
    total = _below_one(wide - whole, words[0])
    index = whole.long()
    rows = (index % 128, index // 128 % 64, index // 8192)
    for step, row, word in zip(_ROWS, rows, words[1:], strict=True):
        if step == 1 or bool(row.any()):
            total += by_table(row, word, step)
    return total


def _below_one(rate: Tensor, word: Tensor) -> Tensor:
    """Poisson numbers by summing the law until it passes the word; at rate < 1 more than 13 has probability < 2⁻³³."""
    target = word.double() / _WORD
    term = (-rate).exp_()
    below = term.clone()
    count = torch.zeros_like(word)
    for k in range(1, 14):
        count += target >= below
        below += term.mul_(rate).div_(k)
    return count


def by_table(row: Tensor, word: Tensor, step: int) -> Tensor:
    """Poisson numbers of rates step·row by inversion.

    Args:
        row: int64, below the rows of the step's table: 128 for step 1, 64 for 128, 33 for 8192.
        word: int64 in [0, 2^32), of row's shape.
        step: 1, 128 or 8192.

    Returns:
        int64 of row's shape.
    """
    keys, first, start = (part.to(row.device) for part in _table(step))
    place = torch.searchsorted(keys, (row * 2 * _WORD + word).contiguous(), right=True)
    return place - start[row] + first[row]


def photon_step(coordinates: Tensor, levels: Callable[[Rows], Tensor]) -> Step:
    """Poisson(x·levels)/levels of every value x in place of x, clipped to [0, 1], by launchers.

    The gradient is the identity's, and zero where the clip acted. The numbers are those of `poisson`.

    Args:
        coordinates: [M, 5] int64, of a stream for each image of a launch.
        levels: [M, C] float32 from the images; at most 2^18.
    """

    tables = _device_tables(coordinates.device)

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        own = levels(images)
        photons_into(out, images, images, coordinates, own, tables, adjoint=False)
        return (own,)

    def backward(to: Rows, grad: Rows, images: Rows, own: Tensor) -> None:
        photons_into(to, images, grad, coordinates, own, tables, adjoint=True)

    return Step(forward, backward)


@cache
def _device_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The tables of all steps in one: keys, first numbers, and where the rows start."""
    keys, first, start = zip(*(_table(step) for step in _ROWS), strict=True)
    before = torch.tensor([0, *map(len, keys[:-1])], device="cpu").cumsum(0)
    with torch.inference_mode(False):
        starts = torch.cat([own + offset for own, offset in zip(start, before, strict=True)])
        return carry(torch.cat(keys), device), carry(torch.cat(first), device), carry(starts, device)


@cache
def _table(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds of Poisson(step·row) for every row, as one ascending table keyed by (row, threshold).

    Returns the keys, padded, and by row the number that its first threshold stands for and where it starts.
    """
    keys, first, start = [], [], []
    length = 0
    for row in range(_ROWS[step]):
        rate = torch.tensor(float(step * row), dtype=torch.float64, device="cpu")
        spread = 7 * math.sqrt(float(rate)) + 14
        support = torch.arange(
            max(0, int(rate - spread)), int(rate + spread) + 2, dtype=torch.float64, device=rate.device
        )
        cdf = torch.special.gammaincc(support + 1, rate) if row else torch.ones_like(support[:1])
        thresholds = (cdf * _WORD).round().long()
        thresholds[-1] = _WORD  # beyond every word: a search never leaves its row
        keys.append(thresholds + row * 2 * _WORD)
        first.append(int(support[0]))
        start.append(length)
        length += len(thresholds)
    keys.append(torch.full_like(keys[0][:1], torch.iinfo(torch.int64).max).expand(_PADDING))
    return torch.cat(keys), torch.tensor(first, device="cpu"), torch.tensor(start, device="cpu")


@torch.library.custom_op("cannonade::poisson_native", mutates_args=())
def _poisson_native(coordinates: Tensor, rates: Tensor) -> Tensor:
    out = torch.empty(rates.shape, dtype=torch.float32)
    tables = [part for step in _ROWS for part in _table(step)]
    native.run(_NATIVE[rates.dtype], out, coordinates.contiguous(), rates.contiguous(), *tables, *rates.shape)
    return out


@_poisson_native.register_fake
def _(coordinates: Tensor, rates: Tensor) -> Tensor:
    return rates.new_empty(rates.shape, dtype=torch.float32)
