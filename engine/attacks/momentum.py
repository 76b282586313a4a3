"""The direction of a step from the gradients so far: none but the last, heavy-ball momentum, or aggregated momentum."""

from collections.abc import Callable

import torch
from torch import Tensor

Direction = Callable[[Tensor], Tensor]

_TINY = 1e-12


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
        """The direction of the next step of some images.

        Args:
            gradient: [M, C, H, W].
            rows: [M], which of the N images it belongs to.
        """
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
