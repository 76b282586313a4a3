"""What an attack is after: another label than the true one, or a label of the attacker's choice."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.attacks.losses import Loss
from cannonade.errors import InputError


@dataclass(frozen=True)
class Untargeted:
    """Any label but the true one.

    Attributes:
        labels: [N] int64, the true labels.

    Example:
        >>> Untargeted(torch.tensor([3, 5])).reached(torch.tensor([3, 4]))
        tensor([False,  True])
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
        labels: [N] int64, the true labels, for the difference of logits ratio.

    Example:
        >>> Targeted(torch.tensor([3, 5])).reached(torch.tensor([3, 4]))
        tensor([ True, False])
    """

    targets: Tensor
    labels: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Targeted":
        """The goals of some images."""
        return Targeted(self.targets[rows], None if self.labels is None else self.labels[rows])

    def __len__(self) -> int:
        return len(self.targets)

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """[N], what the attack maximises: minus the loss of the target."""
        return -loss(logits, self.targets, self.labels)

    def reached(self, predicted: Tensor) -> Tensor:
        """[N] bool, whether the predicted labels satisfy the goal."""
        return predicted == self.targets


@dataclass(frozen=True)
class Mixed:
    """A target for some images, any label but the true one for the others.

    Attributes:
        labels: [N] int64, the true labels.
        targets: [N] int64, −1 where the goal is untargeted.

    Example:
        >>> Mixed(labels=torch.tensor([3, 5]), targets=torch.tensor([1, -1])).reached(torch.tensor([4, 4]))
        tensor([False,  True])
    """

    labels: Tensor
    targets: Tensor

    @property
    def targeted(self) -> Tensor:
        """[N] bool, which images have a target."""
        return self.targets >= 0

    def __getitem__(self, rows: Tensor | slice) -> "Mixed":
        """The goals of some images."""
        return Mixed(self.labels[rows], self.targets[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """[N], what the attack maximises: the loss of the true label, or minus the loss of the target."""
        aims = torch.where(self.targeted, self.targets, self.labels)
        return torch.where(self.targeted, -loss(logits, aims, self.labels), loss(logits, self.labels))

    def reached(self, predicted: Tensor) -> Tensor:
        """[N] bool, whether the predicted labels satisfy the goal."""
        return torch.where(self.targeted, predicted == self.targets, predicted != self.labels)


@dataclass(frozen=True)
class MatchLogits:
    """Given logits for each image, such as those of a clean image of another class (Tramèr et al., NeurIPS 2020).

    What only looks at logits then sees nothing odd. It counts as reached where the prediction is wrong.

    Attributes:
        labels: [N] int64, the true labels.
        logits: [N, K], what the logits shall be.
    """

    labels: Tensor
    logits: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "MatchLogits":
        """The goals of some images."""
        return MatchLogits(self.labels[rows], self.logits[rows])

    def __len__(self) -> int:
        return len(self.labels)

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """[N], what the attack maximises: minus the squared distance to the logits wanted, whatever the loss."""
        return -(logits - self.logits).square().sum(1)

    def reached(self, predicted: Tensor) -> Tensor:
        """[N] bool, whether the predicted labels satisfy the goal."""
        return predicted != self.labels


Goal = Untargeted | Targeted | Mixed | MatchLogits


def as_goal(goal: Goal | Tensor) -> Goal:
    """A tensor of labels means the untargeted goal."""
    return Untargeted(goal.long()) if isinstance(goal, torch.Tensor) else goal


def goal_for(labels: Tensor, targets: Tensor | None, classes: int) -> Goal:
    """The goal of a batch.

    Args:
        labels: [N] int64, the true labels.
        targets: [N] int64, −1 where the goal is untargeted; None for a wholly untargeted batch.
        classes: K.

    Raises:
        InputError: a target is no class, or there is not one for each image.
    """
    if targets is None:
        return Untargeted(labels)
    if targets.shape != labels.shape or targets.dtype != torch.int64:
        raise InputError(f"targets must be {list(labels.shape)} int64, got {list(targets.shape)} {targets.dtype}")
    if len(targets) and not (targets.min() >= -1 and targets.max() < classes):
        raise InputError(
            f"targets must be classes, 0 … {classes - 1}, or -1 for untargeted, got {int(targets.min())} to "
            f"{int(targets.max())}"
        )
    return Targeted(targets, labels) if bool((targets >= 0).all()) else Mixed(labels, targets)
