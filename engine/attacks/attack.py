"""What every attack is and returns, and the ball it moves in."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cannonade.attacks.goals import Goal
from cannonade.attacks.norms import NORMS
from cannonade.defended import DefendedClassifier
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

    Example:
        >>> import torch
        >>> from cannonade import PGD, DefendedClassifier, build_defense
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> defended = DefendedClassifier(net, build_defense("smoothing(sigma=0.1)"))
        >>> result = PGD(eps=0.1, steps=3)(defended, torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]))
        >>> result.gradients, result.forwards
        (tensor([3]), tensor([3]))
    """

    images: Tensor
    gradients: Tensor
    forwards: Tensor
    nonfinite: Tensor
    zero: Tensor
    chunk: int


class Attack(Protocol):
    """What every attack is: hyper-parameters that are called on a classifier, images and goals.

    Attributes:
        eps: radius of the ball in units of [0, 1].
        norm: "linf", "l2" or "l1".
    """

    @property
    def eps(self) -> float:
        """See the class."""

    @property
    def norm(self) -> str:
        """See the class."""

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch."""


def check_ball(norm: str, eps: float) -> None:
    """Raise InputError unless the norm is known and the radius fits it."""
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if not eps >= 0 or (norm == "linf" and eps > 1):
        raise InputError(
            f"eps must be in [0, 1] for linf and at least 0 for l2 and l1 (for 8/255 write 8/255), got {eps}"
        )
