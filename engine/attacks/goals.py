"""What an attack is after: another label than the true one, or a label of the attacker's choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.attacks.losses import Loss


@dataclass(frozen=True)
class Untargeted:
    """Any label but the true one.

    Attributes:
        labels: [N] int64, the true labels.
    """

    labels: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Untargeted":
        """The goals of some images."""
        return Untargeted(self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """[N], what the attack maximises: the loss of the true label."""
        return loss(logits, self.labels)

    def reached(self, predicted: Tensor) -> Tensor:
        """[N] bool, whether the predicted labels satisfy the goal."""
        return predicted != self.labels


@dataclass(frozen=True)
class Targeted:
    """A chosen label for each image.

    Attributes:
        targets: [N] int64.
    """

    targets: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Targeted":
        """The goals of some images."""
        return Targeted(self.targets[rows])

    def __len__(self) -> int:
        return len(self.targets)

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """[N], what the attack maximises: minus the loss of the target."""
        return -loss(logits, self.targets)

    def reached(self, predicted: Tensor) -> Tensor:
        """[N] bool, whether the predicted labels satisfy the goal."""
        return predicted == self.targets


Goal = Untargeted | Targeted


def as_goal(goal: Goal | Tensor) -> Goal:
    """A tensor of labels means the untargeted goal."""
    return Untargeted(goal.long()) if isinstance(goal, torch.Tensor) else goal
