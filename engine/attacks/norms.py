"""The geometry of an attack: for each norm, a random start, a step and a projection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.draws import Draws

_TINY = 1e-12


def _length(values: Tensor) -> Tensor:
    """L2 norm of each image, [N, 1, 1, 1], summed in float64."""
    norm: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
    return norm.to(values.dtype)[:, None, None, None]


def _start_linf(shape: torch.Size, eps: float, draws: Draws) -> Tensor:
    return draws.site(0).uniform(-eps, eps, shape[1:])


def _start_l2(shape: torch.Size, eps: float, draws: Draws) -> Tensor:
    """Uniform in the ball: a normal direction, and a radius eps·u^(1/d)."""
    direction = draws.site(0).normal(shape=shape[1:])
    radius = eps * draws.site(1).uniform().double() ** (1 / shape[1:].numel())
    return direction / _length(direction).clamp(min=_TINY) * radius[:, None, None, None].float()


def _project_l2(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / _length(delta).clamp(min=_TINY)).clamp(max=1)


@dataclass(frozen=True)
class Norm:
    """A norm, as an attack uses it.

    Attributes:
        start: (shape, eps, draws) → [N, C, H, W] uniform in the ball of radius eps.
        step: gradient → direction of steepest ascent, of norm 1 (0 where the gradient is 0).
        project: (delta, eps) → the nearest perturbation in the ball.
        distance: delta → [N] float64, its norm.
    """

    start: Callable[[torch.Size, float, Draws], Tensor]
    step: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]
    distance: Callable[[Tensor], Tensor]


NORMS: dict[str, Norm] = {
    "linf": Norm(
        start=_start_linf,
        step=torch.sign,
        project=lambda delta, eps: delta.clamp(-eps, eps),
        distance=lambda delta: delta.double().abs().flatten(1).amax(1),
    ),
    "l2": Norm(
        start=_start_l2,
        step=lambda gradient: gradient / _length(gradient).clamp(min=_TINY),
        project=_project_l2,
        distance=lambda delta: torch.linalg.vector_norm(delta.double().flatten(1), dim=1),
    ),
}
