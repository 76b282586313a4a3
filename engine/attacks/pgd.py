"""Projected gradient descent, plain or over averaged draws of a stochastic defense."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Goal, as_goal
from cannonade.attacks.losses import LOSSES
from cannonade.attacks.norms import NORMS
from cannonade.checks import check_images
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError


@dataclass(frozen=True)
class AttackResult:
    """What an attack made of a batch.

    Attributes:
        images: [N, C, H, W], the adversarial images.
        gradients: [N] int64, defended gradients that each image cost.
        forwards: [N] int64, forward passes that each image cost, those of its gradients included.
        nonfinite: [N] int64, steps at which the gradient was not finite; the image stood still at those.
        zero: [N] int64, steps at which the gradient was zero everywhere.
        chunk: rows of one pass at the end, smaller than at the start after a retreat for memory.
    """

    images: Tensor
    gradients: Tensor
    forwards: Tensor
    nonfinite: Tensor
    zero: Tensor
    chunk: int


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry et al., ICLR 2018; paper, equation 1). The last iterate is returned.

    At each step: a step of norm `step_size` along the gradient of the loss, projection onto the ball around the original
    image, then clipping to [0, 1].

    Attributes:
        eps: radius of the ball in units of [0, 1].
        steps: k, the number of steps.
        step_size: α, in the same units.
        norm: "linf" or "l2".
        random_start: start uniformly in the ball rather than at the image.
        loss: "cross_entropy".
        gradient: how the gradient of the stochastic classifier is estimated.
    """

    eps: float = 8 / 255
    steps: int = 50
    step_size: float = 1 / 255
    norm: str = "linf"
    random_start: bool = False
    loss: str = "cross_entropy"
    gradient: EOT = field(default_factory=EOT)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if not self.eps >= 0 or (self.norm == "linf" and self.eps > 1):
            raise InputError(
                f"eps must be in [0, 1] for linf and at least 0 for l2 (for 8/255 write 8/255), got {self.eps}"
            )
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if not self.step_size > 0:
            raise InputError(f"step_size must be positive, got {self.step_size}")

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            defended: the classifier under attack.
            images: [N, C, H, W] in [0, 1].
            goal: `Untargeted(labels)`, `Targeted(targets)`, or [N] labels for the untargeted goal.
            ids: [N] int64, each image's index in its data set, which decides its draws; 0 … N−1 by default.

        Raises:
            InputError: images, goal or ids that do not fit together.
        """
        goal = as_goal(goal)
        ids = check_images(images, len(goal), ids)
        norm, loss = NORMS[self.norm], LOSSES[self.loss]
        draws = Draws(seed=defended.seed, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
        cost = ids.new_zeros(4, len(ids))  # gradients, forwards, nonfinite, zero
        if len(images) == 0:
            return _result(images.clone(), cost, 0)
        eot = self.gradient.resolved(defended, images)
        adversarial = images.clone()
        if self.random_start:
            start = norm.start(images.shape, self.eps, replace(draws, phase=Phase.START))
            adversarial = (images + start.to(images.dtype)).clamp(0, 1)
        for step in range(self.steps):
            queries = torch.full_like(ids, step * eot.samples)
            estimate = eot.estimate(defended, adversarial, goal, loss, replace(draws, queries=queries))
            eot = replace(eot, chunk=estimate.chunk)
            finite = estimate.gradient.flatten(1).isfinite().all(1)
            flat = ~estimate.gradient.flatten(1).any(1)
            cost += torch.stack(
                (torch.full_like(ids, eot.samples), torch.full_like(ids, estimate.forwards), ~finite, flat)
            )
            moved = adversarial + self.step_size * norm.step(estimate.gradient)
            inside = (images + norm.project(moved - images, self.eps)).clamp(0, 1)
            adversarial = torch.where(finite[:, None, None, None], inside, adversarial)
        return _result(adversarial, cost, estimate.chunk)


def _result(images: Tensor, cost: Tensor, chunk: int) -> AttackResult:
    gradients, forwards, nonfinite, zero = cost
    return AttackResult(images, gradients, forwards, nonfinite, zero, chunk)
