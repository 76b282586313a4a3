"""The geometry of an attack: for each norm, a random start, a step and a projection."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.draws import Draws

_TINY = 1e-12
_SPARSITY = (
    0.01  # share of the coordinates in an L1 step, as SLIDE's (Tramèr & Boneh 2019); the steepest one alone is weak
)
_SEARCH = 60  # bisections alone exhaust float64; Newton's steps need about six


@dataclass(frozen=True)
class Norm:
    """A norm, as an attack uses it.

    Attributes:
        start: (shape, eps, draws) → [N, C, H, W] uniform in the ball of radius eps.
        step: gradient → direction of ascent, of norm 1 (0 where the gradient is 0): the steepest one for linf and l2, a
            sparse one for l1.
        project: (delta, eps) → the nearest perturbation in the ball.
        confine: (images, delta, eps) → [N, C, H, W], images + delta brought into the ball around the images and into
            [0, 1]: the nearest point for linf and l1; for l2 projected, then clipped.
        distance: delta → [N] float64, its norm.
    """

    start: Callable[[torch.Size, float, Draws], Tensor]
    step: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]
    confine: Callable[[Tensor, Tensor, float], Tensor]
    distance: Callable[[Tensor], Tensor]


def sparse_step(gradient: Tensor, share: Tensor) -> Tensor:
    """The sign of the largest coordinates of a gradient, scaled to L1 norm 1 (Croce & Hein, ICML 2021).

    Args:
        gradient: [N, C, H, W].
        share: [N], which part of the coordinates may move, in [0, 1]; at least one does, and ties move together.

    Returns:
        [N, C, H, W]; 0 where the gradient is 0.
    """
    sizes = gradient.flatten(1).abs()
    count = sizes.shape[1]
    rank = ((1 - share) * count).clamp(0, count - 1).long()
    threshold = sizes.sort(dim=1).values.gather(1, rank[:, None])
    signs = torch.where(sizes >= threshold, gradient.flatten(1).sign(), 0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def project_l1(delta: Tensor, eps: float, room: Tensor) -> Tensor:
    """The nearest perturbation of L1 norm at most eps that leaves no coordinate larger than its room.

    Its coordinates are sign(δ)·clamp(|δ| − λ, 0, room), with the smallest λ ≥ 0 that keeps the norm (Croce & Hein,
    ICML 2021). λ is found by Newton's method on the piecewise linear norm, kept safe by bisection.

    Args:
        delta: [N, C, H, W].
        eps: radius of the ball.
        room: what each coordinate may grow to, ≥ 0, broadcastable to delta.
    """
    sizes, room, resolution = delta.abs(), room.expand_as(delta), torch.finfo(delta.dtype).eps

    def kept(shrinkage: Tensor) -> Tensor:
        return (sizes - shrinkage.to(delta.dtype)[:, None, None, None]).clamp(min=0).minimum(room)

    low = sizes.new_zeros(len(delta), dtype=torch.float64)
    high = sizes.flatten(1).amax(1).double()
    shrinkage = low
    for _ in range(_SEARCH):
        values = kept(shrinkage)
        excess = values.flatten(1).sum(1, dtype=torch.float64) - eps
        low, high = torch.where(excess > 0, shrinkage, low), torch.where(excess > 0, high, shrinkage)
        moving = ((values > 0) & (values < room)).flatten(1).sum(1)
        newton = shrinkage + excess / moving
        found = (
            (low >= high) | (excess.abs() <= resolution * eps) | ((newton - shrinkage).abs() <= resolution * shrinkage)
        )
        if found.all():
            break
        inside = (newton > low) & (newton <= high)
        shrinkage = torch.where(found, shrinkage, torch.where(inside, newton, (low + high) / 2))
    values = kept(shrinkage)
    # λ has the precision of delta, which a large delta and a small eps need not have in common.
    total = values.flatten(1).sum(1, dtype=torch.float64).clamp(min=_TINY)
    return delta.sign() * values * (eps / total).clamp(max=1).to(delta.dtype)[:, None, None, None]


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


def _start_l1(shape: torch.Size, eps: float, draws: Draws) -> Tensor:
    """Uniform in the ball: Laplace coordinates, divided by the sum of their sizes and one exponential number more."""
    uniform = draws.site(0).uniform(-1, 1, shape[1:])
    sizes = -(1 - uniform.abs()).clamp(min=2.0**-25).log()
    extra = -torch.log1p(-draws.site(1).uniform().double())
    total = sizes.flatten(1).sum(1, dtype=torch.float64) + extra
    return uniform.sign() * sizes * (eps / total)[:, None, None, None].float()


def _project_l2(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / _length(delta).clamp(min=_TINY)).clamp(max=1)


def _confine_l1(images: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (images + project_l1(delta, eps, torch.where(delta > 0, 1 - images, images))).clamp(0, 1)


NORMS: dict[str, Norm] = {
    "linf": Norm(
        start=_start_linf,
        step=torch.sign,
        project=lambda delta, eps: delta.clamp(-eps, eps),
        confine=lambda images, delta, eps: (images + delta.clamp(-eps, eps)).clamp(0, 1),
        distance=lambda delta: delta.double().abs().flatten(1).amax(1),
    ),
    "l2": Norm(
        start=_start_l2,
        step=lambda gradient: gradient / _length(gradient).clamp(min=_TINY),
        project=_project_l2,
        confine=lambda images, delta, eps: (images + _project_l2(delta, eps)).clamp(0, 1),
        distance=lambda delta: torch.linalg.vector_norm(delta.double().flatten(1), dim=1),
    ),
    "l1": Norm(
        start=_start_l1,
        step=lambda gradient: sparse_step(gradient, gradient.new_full((len(gradient),), _SPARSITY)),
        project=lambda delta, eps: project_l1(delta, eps, delta.new_full((), torch.inf)),
        confine=_confine_l1,
        distance=lambda delta: delta.double().abs().flatten(1).sum(1),
    ),
}
