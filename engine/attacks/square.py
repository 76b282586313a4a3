"""Square attack: random search over squares, without gradients (Andriushchenko et al., ECCV 2020)."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from cannonade.attacks.norms import NORMS
from cannonade.attacks.random_search import RandomSearch
from cannonade.draws import Draws
from cannonade.errors import InputError

_TINY = 1e-12
_TILES = 5  # of the start in l2, a side
# Of 10,000 points, after how many the share of the image that a square covers is halved (section 4.1).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square(RandomSearch):
    """Square attack (algorithms 1 to 3). Every image has squares of its own.

    In linf a square sets each channel of a window to ±eps, from a start of vertical stripes. In l2 it moves the size of the
    perturbation from one window to another, where it adds two opposite bumps. Unlike the published attack, an image that looks
    broken is attacked on, since one answer of a stochastic classifier proves little.

    Attributes:
        p: share of the image that the first squares cover; its schedule stretches to the budget.
    """

    p: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("linf", "l2"):
            raise InputError(f"square: norm must be linf or l2, got {self.norm!r}")
        if not 0 < self.p <= 1:
            raise InputError(f"square: p must be in (0, 1], got {self.p}")

    def propose(self, images: Tensor, best: Tensor, number: int, draws: Draws) -> Tensor:
        """The start, or the best point with another square."""
        height, width = images.shape[2:]
        if self.norm == "linf":
            if number == 0:
                return _stripes(images, self.eps, draws)
            side = min(max(round(sqrt(self._share(number) * height * width)), 1), height, width)
            return _coloured_square(images, best, self.eps, side, draws)
        if min(height, width) < 2 * _TILES:
            raise InputError(f"square in l2 needs images of at least {2 * _TILES} pixels a side, got {height}x{width}")
        if number == 0:
            delta = _tiles(images, draws)
        else:
            side = min(
                max(round(sqrt(self._share(number) * height * width)), 3) // 2 * 2 + 1,
                (min(height, width) - 1) // 2 * 2 + 1,
            )
            delta = _moved_mass(best - images, self.eps, side, draws)
        length = NORMS["l2"].distance(delta).clamp(min=_TINY).to(delta.dtype)[:, None, None, None]
        return (images + delta * (self.eps / length)).clamp(0, 1)

    def _share(self, number: int) -> float:
        progress = 10_000 * number // self.points
        return self.p * 0.5 ** sum(progress > halving for halving in _HALVINGS)


def _signs(draws: Draws, site: int, shape: tuple[int, ...]) -> Tensor:
    """[N, *shape], −1 or 1."""
    return draws.site(site).bernoulli(0.5, shape).float() * 2 - 1


def _stripes(images: Tensor, eps: float, draws: Draws) -> Tensor:
    signs = _signs(draws, 0, (images.shape[1], 1, images.shape[3]))
    return (images + eps * signs.to(images.dtype)).clamp(0, 1)


def _coloured_square(images: Tensor, best: Tensor, eps: float, side: int, draws: Draws) -> Tensor:
    height, width = images.shape[2:]
    top, left = draws.site(0).integers(0, height - side), draws.site(1).integers(0, width - side)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    inside = ((rows >= top[:, None]) & (rows < top[:, None] + side))[:, None, :, None] & (
        (columns >= left[:, None]) & (columns < left[:, None] + side)
    )[:, None, None, :]
    colour = eps * _signs(draws, 2, (images.shape[1], 1, 1)).to(images.dtype)
    return torch.where(inside, images + colour, best).clamp(0, 1)


def _tiles(images: Tensor, draws: Draws) -> Tensor:
    """The start in l2: a grid of bumps, each with its own sign in each channel."""
    count, channels, height, width = images.shape
    side = min(height, width) // _TILES
    across = (height // side, width // side)
    signs = _signs(draws, 0, (channels, *across)).to(images.dtype)
    turned = draws.site(1).bernoulli(0.5, across)[:, None, :, :, None, None]
    bump = _bump(side, images)
    tiles = signs[..., None, None] * torch.where(turned, bump.T, bump)
    grid = tiles.transpose(3, 4).reshape(count, channels, across[0] * side, across[1] * side)
    delta = torch.zeros_like(images)
    top, left = (height - grid.shape[2]) // 2, (width - grid.shape[3]) // 2
    delta[:, :, top : top + grid.shape[2], left : left + grid.shape[3]] = grid
    return delta


def _moved_mass(delta: Tensor, eps: float, side: int, draws: Draws) -> Tensor:
    """Empty one window and give what it held, and what is left of eps, to another (algorithm 3)."""
    to, away = _window(delta, side, draws, 0), _window(delta, side, draws, 2)
    old = delta[to]
    touched = torch.zeros_like(delta)
    touched[to] = touched[away] = 1
    held = (delta * touched).square().sum((2, 3), keepdim=True)
    left = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0) / delta.shape[1]
    bump = _bump(side, delta)
    turned = draws.site(5).bernoulli(0.5)[:, None, None, None]
    new = _signs(draws, 4, (delta.shape[1], 1, 1)).to(delta.dtype) * torch.where(turned, bump.T, bump)
    new = new + old / old.square().sum((2, 3), keepdim=True).sqrt().clamp(min=_TINY)
    new = new / new.square().sum((2, 3), keepdim=True).sqrt().clamp(min=_TINY)
    moved = delta.clone()
    moved[away] = 0
    moved[to] = new * (held + left).sqrt()
    return moved


def _window(delta: Tensor, side: int, draws: Draws, site: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The index of a random window of each image: `delta[index]` is [N, C, side, side]."""
    count, channels, height, width = delta.shape
    top, left = draws.site(site).integers(0, height - side), draws.site(site + 1).integers(0, width - side)
    along = torch.arange(side, device=delta.device)
    return (
        torch.arange(count, device=delta.device)[:, None, None, None],
        torch.arange(channels, device=delta.device)[None, :, None, None],
        (top[:, None] + along)[:, None, :, None],
        (left[:, None] + along)[:, None, None, :],
    )


def _bump(side: int, like: Tensor) -> Tensor:
    """[side, side], of length 1: a positive bump in the upper half and a negative one in the lower (equation 2)."""
    halves = [_half_bump(side // 2, side, like), -_half_bump(side - side // 2, side, like)]
    bump = torch.cat(halves)
    unit: Tensor = bump / torch.linalg.vector_norm(bump)
    return unit


def _half_bump(height: int, width: int, like: Tensor) -> Tensor:
    """Σ 1/(k + 1)² over the k at least as large as the distance to the centre, in maximum norm; of length 1."""
    rows, columns = (torch.arange(size, device=like.device) for size in (height, width))
    distance = (rows - height // 2).abs()[:, None].maximum((columns - width // 2).abs())
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, device=like.device, dtype=like.dtype).square()
    tails = terms.flip(0).cumsum(0).flip(0)
    bump = tails[distance]
    unit: Tensor = bump / torch.linalg.vector_norm(bump)
    return unit
