"""Transfer: attack a surrogate and present what comes of it to the defended classifier."""

from dataclasses import dataclass

from torch import Tensor

from cannonade.attacks.attack import Attack, AttackResult
from cannonade.attacks.goals import Goal
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """An attack on another classifier than the one it is judged by.

    A defense that falls to it while it withstands the same attack with its own gradients has only hidden them.

    Attributes:
        attack: what is done to the surrogate.
        surrogate: the other classifier; None for the one under attack without its defense.
    """

    attack: Attack
    surrogate: DefendedClassifier | None = None

    @property
    def eps(self) -> float:
        """Radius of the ball in units of [0, 1]."""
        return self.attack.eps

    @property
    def norm(self) -> str:
        """Norm of the ball."""
        return self.attack.norm

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch; see `PGD`. The costs are the surrogate's: the defended classifier is never asked.

        Raises:
            InputError: the surrogate has other classes.
        """
        surrogate = self.surrogate or DefendedClassifier(defended.classifier, Identity(), seed=defended.seed)
        if surrogate.num_classes != defended.num_classes:
            raise InputError(
                f"a surrogate must have the classes of the classifier under attack, {defended.num_classes}, got "
                f"{surrogate.num_classes}"
            )
        return self.attack(surrogate, images, goal, ids=ids)
