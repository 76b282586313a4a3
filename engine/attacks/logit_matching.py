"""Logit matching: an attack on detectors that look at logits (Tramèr et al., NeurIPS 2020, on the odds detector)."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cannonade.attacks.attack import AttackResult
from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Goal, MatchLogits, Untargeted, as_goal
from cannonade.attacks.pgd import PGD
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.transforms import Transform
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing


@dataclass(frozen=True, kw_only=True)
class LogitMatching:
    """PGD towards logits like a clean image's, of the classifier under noise, whatever its defense.

    The logits wanted are the image's own, with those of its label and of the largest other class exchanged: an image's attack
    does then not depend on the batch. The original takes the logits of another clean image: give those as the goal
    `MatchLogits`.

    Attributes:
        eps: radius of the L∞ ball in units of [0, 1].
        steps: k.
        step_size: α, in the same units.
        noise: standard deviation of the Gaussian noise, clipped to [0, 1], under which the logits shall match; 0 for none.
        gradient: over how many draws of the noise a step is averaged.
    """

    eps: float = 8 / 255
    steps: int = 100
    step_size: float = 0.2 / 255
    noise: float = 30 / 255
    gradient: EOT = field(default_factory=EOT)

    def __post_init__(self) -> None:
        _ = self.attack, self.noisy

    @property
    def norm(self) -> str:
        """The norm of the ball."""
        return "linf"

    @property
    def attack(self) -> PGD:
        """The same as PGD."""
        return PGD(eps=self.eps, steps=self.steps, step_size=self.step_size, gradient=self.gradient)

    @property
    def noisy(self) -> Transform:
        """The noise as a defense."""
        return Smoothing(sigma=self.noise, clip=True) if self.noise else Identity()

    @property
    def queries(self) -> int:
        """Forward passes of an image, the one for its own logits included."""
        return 1 + self.steps * self.gradient.queries

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch; see `PGD`.

        Raises:
            InputError: the goal is neither untargeted nor logits to match.
        """
        goal = as_goal(goal)
        surrogate = DefendedClassifier(defended.classifier, self.noisy, seed=defended.seed)
        if isinstance(goal, MatchLogits):
            return self.attack(surrogate, images, goal, ids=ids)
        if not isinstance(goal, Untargeted):
            raise InputError(f"logit_matching has no target but logits, got the goal {type(goal).__name__}")
        wanted = images.new_zeros(len(images), defended.num_classes)
        if len(images):
            with torch.no_grad():
                wanted = exchanged(defended.classifier(images), goal.labels)
        result = self.attack(surrogate, images, MatchLogits(goal.labels, wanted), ids=ids)
        return replace(result, forwards=result.forwards + 1)


def exchanged(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [N, K] with those of the labels [N] and of the largest other class exchanged."""
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    order = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits), 1)
    order.scatter_(1, labels[:, None], rival[:, None])
    order.scatter_(1, rival[:, None], labels[:, None])
    return logits.gather(1, order)
