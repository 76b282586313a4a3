"""Randomness: every random number is a pure function of (seed, phase, image, query, site, element)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels.philox import Kind, convert, draw, philox
from cannonade.kernels.poisson import poisson

_WORD = 1 << 32
_SITES = 64  # sites of one part, and parts of one draw: a node of the site tree is a digit in base 64
_DEPTH = 4  # parts within parts: their nodes have at most 24 bits, which leaves a site of 30 bits in its 32-bit word
_ROOT = torch.zeros((), dtype=torch.int64, device="cpu")

Bound = float | Tensor


class Phase(IntEnum):
    """What a draw serves. It is mixed into the key, so no two phases of one seed, or of two seeds, share draws.

    Example:
        >>> Phase.FINAL_VOTE != Phase.ATTACK
        True
    """

    ATTACK = 0
    START = 1
    SELECTION = 2
    BENIGN_VOTE = 3
    FINAL_VOTE = 4
    NULL_VOTE = 5
    CERTIFY_SELECT = 6
    CERTIFY_ESTIMATE = 7
    TRAINING = 8
    FORWARD = 9
    ORDER = 10
    INVARIANCE = 11


def check_seed(seed: int) -> None:
    """Raise InputError where a seed does not fit 64 bits."""
    if not 0 <= seed < 1 << 64:
        raise InputError(f"seed must be in [0, 2^64), got {seed}")


@cache
def phase_key(seed: int, phase: Phase) -> tuple[int, int]:
    """The key of a phase: the first 64 bits of Philox(counter=(phase, 0, 0, 0), key=seed).

    Args:
        seed: in [0, 2^64).
        phase: what the draws serve.

    Raises:
        InputError: the seed does not fit 64 bits.
    """
    check_seed(seed)
    number, zero, low, high = torch.tensor((int(phase), 0, seed % _WORD, seed // _WORD), device="cpu")
    first, second, *_ = philox((number, zero, zero, zero), (low, high))
    return int(first), int(second)


@dataclass(frozen=True)
class Stream:
    """One stream of random numbers per image, at one site.

    Attributes:
        coordinates: [N, 5] int64: two words of key, image id, query number and site. They are the whole state, so a
            transform whose noise is too large to keep stores these as a parameter and draws again when applied.
        head: [N, 4] int64, the first four words where they were drawn ahead; else None.
    """

    coordinates: Tensor
    head: Tensor | None = None

    def words(self, count: int) -> Tensor:
        """The first `count` words of every stream: [N, count] int64 in [0, 2^32)."""
        return self._drawn("words", count)

    def _drawn(self, kind: Kind, count: int) -> Tensor:
        if self.head is not None and count <= self.head.shape[1]:
            return convert(self.head, kind)[:, :count]
        return draw(self.coordinates, count, kind)

    def _shaped(self, kind: Kind, shape: Sequence[int]) -> Tensor:
        return self._drawn(kind, math.prod(shape)).reshape(len(self.coordinates), *shape)

    def uniform(self, low: Bound = 0.0, high: Bound = 1.0, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers low + (high − low)·(word >> 8)·2⁻²⁴.

        Args:
            low, high: numbers, or tensors that broadcast against [N, *shape].
            shape: shape of one image's numbers.

        Returns:
            [N, *shape] float32.
        """
        return _scaled(self._shaped("uniform", shape), high - low, low)

    def integers(self, low: int | Tensor, high: int | Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers in {low, …, high}, both ends included, by multiply-high (bias below 2⁻³²·(high − low + 1)).

        Args:
            low, high: integers, or int64 tensors that broadcast against [N, *shape]; high − low < 2³¹.
            shape: shape of one image's numbers.

        Returns:
            [N, *shape] int64.

        Raises:
            InputError: numbers low and high leave no integer, or more than 2³¹.
        """
        if not isinstance(low, Tensor) and not isinstance(high, Tensor) and not 0 <= high - low < _WORD // 2:
            raise InputError(f"integers need low <= high and high - low < 2^31, got {low} to {high}")
        return ((self._shaped("words", shape) * (high - low + 1)) >> 32) + low

    def bernoulli(self, p: Bound, shape: Sequence[int] = ()) -> Tensor:
        """True with probability p: [N, *shape] bool."""
        return self.uniform(shape=shape) < p

    def normal(self, mean: Bound = 0.0, std: Bound = 1.0, shape: Sequence[int] = ()) -> Tensor:
        """Normal numbers by Box-Muller: elements 2i and 2i + 1 come from words 2i and 2i + 1.

        Args:
            mean, std: numbers, or tensors that broadcast against [N, *shape].
            shape: shape of one image's numbers.

        Returns:
            [N, *shape] float32, at most 5.8 standard deviations from the mean.
        """
        return _scaled(self._shaped("normal", shape), std, mean)

    def choice(
        self, options: Sequence[float] | Tensor, shape: Sequence[int] = (), weights: Sequence[float] | None = None
    ) -> Tensor:
        """One of `options` for each element, with replacement.

        Args:
            options: K values.
            shape: shape of one image's choices.
            weights: K non-negative weights; equal ones by default.

        Returns:
            [N, *shape] of the options' dtype.

        Raises:
            InputError: there are no options, or no weights that fit them.
        """
        values = torch.as_tensor(options, device=self.coordinates.device)
        if len(values) == 0:
            raise InputError("choice needs at least one option, got none")
        if weights is None:
            return values[self.integers(0, len(values) - 1, shape)]
        if len(weights) != len(values) or not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise InputError(f"weights must be {len(values)} numbers >= 0, not all 0, got {list(weights)}")
        share = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        thresholds = (share / share[-1] * _WORD).round().long().to(values.device)
        return values[torch.searchsorted(thresholds[:-1], self._shaped("words", shape).contiguous(), right=True)]

    def permutation(self, n: int) -> Tensor:
        """A uniformly random order of 0 … n−1: [N, n] int64 (n words sorted; ties, 2⁻³² a pair, go to the smaller)."""
        return self.words(n).argsort(dim=1, stable=True)

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson numbers of the given rates: [N, …] float32, for rates in [0, 270,336).

        See `cannonade.kernels.poisson`; element e uses the four words of counter block e.

        Raises:
            InputError: there is not one row of rates per stream, or a rate is outside the range.
        """
        if rate.shape[:1] != self.coordinates.shape[:1]:
            raise InputError(f"rate must be [{len(self.coordinates)}, ...], got {list(rate.shape)}")
        rates = rate.detach().flatten(1) if rate.dim() > 1 else rate.detach()[:, None]
        return poisson(self.coordinates, rates).reshape(rate.shape)


def _scaled(unit: Tensor, scale: Bound, shift: Bound) -> Tensor:
    """unit·scale + shift; `unit` is fresh and may be overwritten."""
    if isinstance(scale, Tensor) or isinstance(shift, Tensor):
        return unit * scale + shift
    scaled = unit if scale == 1 else unit.mul_(scale)
    return scaled if shift == 0 else scaled.add_(shift)


@dataclass(frozen=True)
class Draws:
    """A batch of streams: one per image and query, from which a defense draws at numbered sites.

    Attributes:
        seed: of the whole run, in [0, 2^64).
        phase: what the draws serve.
        images: [N] int64, each image's index in its data set, in [0, 2^32).
        queries: [N] int64, how often the defense has been asked about that image before, in [0, 2^32).
        node: [N] int64, where in a tree of nested transforms these draws are made; zeros at the root.
        heads: [N, sites, 4] int64, words drawn ahead (see `ahead`); else None.
        depth: how many parts within parts lead to the node.

    Raises:
        InputError: the seed, the ids or the query numbers are of the wrong shape, type or range (the range of tensors
            is checked on a CPU only, where it does not wait for a device).

    Example:
        >>> draws = Draws(seed=0, phase=Phase.ATTACK, images=torch.tensor([17, 18]), queries=torch.tensor([203, 203]))
        >>> both = draws.site(0).uniform(-1, 1)
        >>> torch.equal(draws[1:].site(0).uniform(-1, 1), both[1:])
        True
    """

    seed: int
    phase: Phase
    images: Tensor
    queries: Tensor
    node: Tensor = _ROOT
    heads: Tensor | None = None
    depth: int = 0

    def __post_init__(self) -> None:
        if self.images.shape != self.queries.shape or self.images.dim() != 1:
            raise InputError(
                f"images and queries must both be [N], got {list(self.images.shape)} and {list(self.queries.shape)}"
            )
        if self.node is _ROOT:
            phase_key(self.seed, self.phase)
            _check_words(images=self.images, queries=self.queries)
            object.__setattr__(self, "node", torch.zeros_like(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> "Draws":
        """The draws of some rows."""
        heads = None if self.heads is None else self.heads[rows]
        return replace(self, images=self.images[rows], queries=self.queries[rows], node=self.node[rows], heads=heads)

    def laid_out(self, rows: Tensor) -> "Draws":
        """Several draws of every image as one batch, draw by draw: row r is that of stream r % N, r // N queries later."""
        own = self[rows % len(self)]
        return replace(own, queries=own.queries + rows // len(self))

    def to(self, device: torch.device) -> "Draws":
        """The same draws, made on another device."""
        heads = None if self.heads is None else self.heads.to(device)
        return replace(
            self,
            images=self.images.to(device),
            queries=self.queries.to(device),
            node=self.node.to(device),
            heads=heads,
        )

    def part(self, number: int) -> "Draws":
        """The draws of the part with this number (0 to 62) of a composed transform: its sites are nobody else's."""
        _check_number("part", number, _SITES - 1)
        return replace(self, node=self.node * _SITES + (number + 1), heads=None, depth=self._deeper())

    def parts(self, count: int) -> "Draws":
        """The draws of parts 0 … count−1 (at most 63) of every image in one batch of N·count rows, image by image."""
        _check_number("count of parts", count, _SITES)
        numbers = torch.arange(1, count + 1, device=self.node.device)
        return replace(
            self,
            images=self.images.repeat_interleave(count),
            queries=self.queries.repeat_interleave(count),
            node=(self.node[:, None] * _SITES + numbers).flatten(),
            heads=None,
            depth=self._deeper(),
        )

    def _deeper(self) -> int:
        if self.depth == _DEPTH:
            raise InputError(f"transforms can be nested {_DEPTH} deep, got one part more; compose them side by side")
        return self.depth + 1

    def ahead(self, sites: int) -> "Draws":
        """The same draws with the first four words of sites 0 … sites−1 drawn in one call."""
        _check_number("count of sites ahead", sites, _SITES + 1)
        numbers = torch.arange(sites, device=self.node.device)
        coordinates = self._coordinates(self.node[:, None] * _SITES + numbers)
        heads = draw(coordinates.flatten(0, 1), 4).reshape(len(self), sites, 4)
        return replace(self, heads=heads)

    def site(self, number: int) -> Stream:
        """The streams of one place in the defense that asks (0 to 63)."""
        _check_number("site", number, _SITES)
        head = None if self.heads is None or number >= self.heads.shape[1] else self.heads[:, number]
        return Stream(self._coordinates(self.node * _SITES + number), head)

    def _coordinates(self, sites: Tensor) -> Tensor:
        """[N, …, 5] coordinates for sites [N, …]."""
        k0, k1 = phase_key(self.seed, self.phase)
        trailing = (..., *(None,) * (sites.dim() - 1))
        rows = (self.images[trailing], self.queries[trailing], sites)
        return torch.stack(
            (torch.full_like(sites, k0), torch.full_like(sites, k1), *(row.expand_as(sites) for row in rows)), dim=-1
        )


def _check_number(name: str, number: int, stop: int) -> None:
    if not 0 <= number < stop:
        raise InputError(f"{name} must be in [0, {stop}), got {number}")


def _check_words(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int64:
            raise InputError(f"{name} must be int64, got {tensor.dtype}; convert with .long()")
        if tensor.is_cpu and tensor.numel() and not (tensor.min() >= 0 and tensor.max() < _WORD):
            raise InputError(f"{name} must be in [0, 2^32), got {int(tensor.min())} to {int(tensor.max())}")
