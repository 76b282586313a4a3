"""The direction of a step from the gradients so far: none but the last, heavy-ball momentum, or aggregated momentum."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Direction = Callable[[Tensor], Tensor]

_TINY = 1e-12
_BETAS = (0.9, 0.999)


class Directions(Protocol):
    """What turns the gradients of the steps so far into directions."""

    def direction(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """The direction of the next step of some images.

        Args:
            gradient: [M, C, H, W].
            rows: [M], which of the N images it belongs to.
        """


class Momentum:
    """Velocities of a batch, and the directions they give.

    - A number μ > 0 (Dong et al., CVPR 2018): v ← μ·v + g/‖g‖₁, and the direction is that of v; with raw gradients
      v ← μ·v + g.
    - Several numbers μ_b: aggregated momentum (Lucas et al., ICLR 2019) as Sitawarin et al. (ICML 2022, algorithm 1) attack
      with it: v_b ← μ_b·v_b + direction(g), and the step goes along the mean of the v_b. It is longer than 1 where the
      directions agree: up to mean 1/(1 − μ_b).

    Args:
        damping: μ, or all μ_b; 0 for no momentum.
        shape: [N, C, H, W].
        direction: the direction that belongs to a gradient (a norm's step, or the gradient itself).
        raw: whether that is the gradient itself.
    """

    def __init__(self, damping: float | tuple[float, ...], shape: torch.Size, direction: Direction, raw: bool) -> None:
        self._dampings = damping if isinstance(damping, tuple) else (damping,)
        self._aggregated = isinstance(damping, tuple)
        self._shape, self._direction, self._raw = shape, direction, raw
        self._velocities: list[Tensor] = []

    def direction(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """See `Directions`."""
        if not any(self._dampings):
            return self._direction(gradient)
        if not self._velocities:
            self._velocities = [gradient.new_zeros(self._shape) for _ in self._dampings]
        if self._aggregated:
            new = self._direction(gradient)
            return torch.stack([self._update(number, new, rows) for number in range(len(self._dampings))]).mean(0)
        size = gradient.flatten(1).abs().sum(1).clamp(min=_TINY)[:, None, None, None]
        return self._direction(self._update(0, gradient if self._raw else gradient / size, rows))

    def _update(self, number: int, new: Tensor, rows: Tensor) -> Tensor:
        velocity = self._dampings[number] * self._velocities[number][rows] + new
        self._velocities[number][rows] = velocity
        return velocity


class SignAdam:
    """Adam's steps (Kingma & Ba, ICLR 2015) for signs of gradients, as Athalye et al. (ICML 2018) attack activation pruning.

    A sign that stays the same gives steps of size 1. Images may drop out, but not come back.

    Args:
        shape: [N, C, H, W].
    """

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        self._count = 0
        self._mean = self._square = torch.empty(0)

    def direction(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """See `Directions`."""
        if not self._count:
            self._mean, self._square = (gradient.new_zeros(self._shape) for _ in range(2))
        self._count += 1
        sign = gradient.sign()
        self._mean[rows] = _BETAS[0] * self._mean[rows] + (1 - _BETAS[0]) * sign
        self._square[rows] = _BETAS[1] * self._square[rows] + (1 - _BETAS[1]) * sign.square()
        mean, square = (
            moment[rows] / (1 - beta**self._count)
            for moment, beta in zip((self._mean, self._square), _BETAS, strict=True)
        )
        return mean / (square.sqrt() + 1e-8)
