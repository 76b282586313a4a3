"""AutoPGD: projected gradient ascent that chooses its own step sizes, plain or over draws of a stochastic defense."""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cannonade.attacks.attack import AttackResult, check_ball
from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Goal, as_goal
from cannonade.attacks.losses import LOSSES
from cannonade.attacks.norms import NORMS
from cannonade.attacks.reach import lost_gradient
from cannonade.attacks.steering import Steering
from cannonade.attacks.step_sizes import HalvingSteps, SparseSteps, Steps
from cannonade.checks import check_images
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError

_LEAST_EVAL_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class AutoPGD:
    """AutoPGD (Croce & Hein, ICML 2020; in l1 APGD-L1 of ICML 2021). Each image's best point is returned.

    Every gradient is of fresh draws. What decides about step size and best point is the mean objective over other draws, of
    the selection phase, which stay the same for an image throughout a restart, so that points are compared and not draws.
    Among restarts, draws that none of them has seen decide: by the share that reaches the goal, then by the mean objective.

    Attributes:
        eps: radius of the ball in units of [0, 1]. At 0 the images are returned as they are.
        steps: number of steps, and of gradients.
        norm: "linf", "l2" or "l1".
        loss: "cross_entropy", "margin", "dlr" or "dlr_targeted".
        restarts: how often to start, each time elsewhere.
        random_start: start uniformly in the ball rather than at the image.
        rho: share of rising steps below which a step size is halved; not used in l1.
        eval_samples: draws that steer. 0 uses the m draws of the gradient, as other libraries do, and goes on from an old
            gradient where it returns to the best point; None means max(m, 8), or 0 where there is no defense to draw.
        gradient: how the gradient of the stochastic classifier is estimated.

    Example:
        >>> from cannonade import EOT
        >>> AutoPGD(eps=0.5, norm="l2", steps=20, gradient=EOT(samples=10)).restarts
        1
    """

    eps: float = 8 / 255
    steps: int = 100
    norm: str = "linf"
    loss: str = "cross_entropy"
    restarts: int = 1
    random_start: bool = True
    rho: float = 0.75
    eval_samples: int | None = None
    gradient: EOT = field(default_factory=EOT)

    def __post_init__(self) -> None:
        check_ball(self.norm, self.eps)
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        for name, value in (("steps", self.steps), ("restarts", self.restarts)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.rho <= 1:
            raise InputError(f"rho must be in [0, 1], got {self.rho}")
        if self.eval_samples is not None and self.eval_samples < 0:
            raise InputError(f"eval_samples must be at least 0, or None, got {self.eval_samples}")

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            defended: the classifier under attack.
            images: [N, C, H, W] in [0, 1].
            goal: `Untargeted(labels)`, `Targeted(targets)`, `Mixed(labels, targets)`, or [N] labels for the untargeted goal.
            ids: [N] int64, each image's index in its data set, which decides its draws; 0 … N−1 by default.

        Raises:
            InputError: images, goal or ids that do not fit together, a loss that does not fit the goal or the classes, or
                logits that do not hang on the images.

        Warns:
            UserWarning: every gradient was zero; says where it was lost.
        """
        goal = as_goal(goal)
        ids = check_images(images, len(goal), ids)
        if len(images) == 0 or self.eps == 0:
            none = torch.zeros_like(ids)
            return AttackResult(images.clone(), none, none, none, none, 0)
        eot = self.gradient.resolved(defended, images)
        steering = Steering(defended, goal, ids, LOSSES[self.loss], eot, self.steering_draws(defended))
        best, reached, objective = images, images.new_zeros(len(images)), images.new_zeros(len(images))
        for restart in range(self.restarts):
            point, value = self._climb(steering, images, restart)
            share, value = steering.judge(point, value, self.restarts) if self.restarts > 1 else (reached, value)
            better = (share > reached) | ((share == reached) & (value > objective)) | (restart == 0)
            best = torch.where(better[:, None, None, None], point, best)
            reached, objective = torch.where(better, share, reached), torch.where(better, value, objective)
        if steering.all_zero():
            warnings.warn(lost_gradient(defended, images, steering.draws(Phase.SELECTION, 0)), stacklevel=2)
        gradients, forwards, nonfinite, zero = steering.cost
        return AttackResult(best, gradients, forwards, nonfinite, zero, steering.chunk)

    def steering_draws(self, defended: DefendedClassifier) -> int:
        """Draws that steer, on this classifier."""
        if self.eval_samples is not None:
            return self.eval_samples
        return 0 if defended.defense.deterministic else max(self.gradient.samples, _LEAST_EVAL_SAMPLES)

    def _climb(self, steering: Steering, images: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One start and its best point: [N, C, H, W] and its objective, [N]."""
        norm = NORMS[self.norm]
        point = previous = best = self._start(steering, images, restart)
        steering.restart(restart)
        objective = highest = steering.objective(point, last=False).nan_to_num(nan=-torch.inf)
        steering.keep(torch.ones_like(objective, dtype=torch.bool))
        steps = self._steps(objective, images)
        back = torch.zeros_like(objective, dtype=torch.bool)
        for step in range(self.steps):
            gradient = steering.gradient(point, back)
            finite = gradient.flatten(1).isfinite().all(1)
            moved = norm.confine(images, point - images + steps.step(gradient), self.eps)
            if step > 0 and steps.momentum > 0:
                drift = (1 - steps.momentum) * (moved - point) + steps.momentum * (point - previous)
                moved = norm.confine(images, point - images + drift, self.eps)
            point, previous = torch.where(finite[:, None, None, None], moved, point), point
            objective = steering.objective(point, last=step == self.steps - 1)
            better = objective > highest
            best = torch.where(better[:, None, None, None], point, best)
            highest = torch.where(better, objective, highest)
            steering.keep(better)
            back = steps.observe(objective, highest, best - images)
            point = torch.where(back[:, None, None, None], best, point)
        return best, highest

    def _start(self, steering: Steering, images: Tensor, restart: int) -> Tensor:
        if not self.random_start:
            return images.clone()
        draws = steering.draws(Phase.START, restart).to(images.device)
        start = NORMS[self.norm].start(images.shape, self.eps, draws)
        return NORMS[self.norm].confine(images, start.to(images.dtype), self.eps)

    def _steps(self, objective: Tensor, images: Tensor) -> Steps:
        if self.norm == "l1":
            return SparseSteps(objective, images[0].numel(), eps=self.eps, steps=self.steps)
        return HalvingSteps(NORMS[self.norm], objective, eps=self.eps, steps=self.steps, rho=self.rho)
