"""Predictions of a stochastic classifier for an attack to judge by, without gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import Loss
from cannonade.chunking import with_retreat
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws


@dataclass(frozen=True)
class Predictions:
    """Logits of s draws of each image.

    Attributes:
        logits: [s, N, K].
        chunk: rows of one pass, smaller than asked for after a retreat.
    """

    logits: Tensor
    chunk: int

    def objective(self, goal: Goal, loss: Loss, average: str) -> Tensor:
        """[N], what the attack maximises: the quantity whose gradient `EOT(average=…)` estimates, on these draws."""
        if average == "loss":
            return _mean(torch.stack([goal.objective(logits, loss) for logits in self.logits]))
        if average == "logits":
            return goal.objective(_mean(self.logits), loss)
        tiny = torch.finfo(self.logits.dtype).tiny
        return goal.objective(self.probabilities().clamp(min=tiny).log(), loss)

    def share_reached(self, goal: Goal) -> Tensor:
        """[N], the share of the draws that satisfy the goal."""
        return _mean(torch.stack([goal.reached(logits.argmax(1)).float() for logits in self.logits]))

    def probabilities(self) -> Tensor:
        """[N, K], mean probabilities."""
        return _mean(self.logits.softmax(2))


def predict(defended: DefendedClassifier, images: Tensor, draws: Draws, samples: int, chunk: int) -> Predictions:
    """Predict every image several times.

    Args:
        defended: the stochastic classifier.
        images: [N, C, H, W] in [0, 1], N ≥ 1.
        draws: N streams; draw j of an image is its stream j queries later.
        samples: s, predictions of each image.
        chunk: rows of one pass.
    """
    logits, used = with_retreat(lambda rows: _logits(defended, images, draws, samples, rows), chunk)
    return Predictions(logits, used)


@torch.no_grad()
def _logits(defended: DefendedClassifier, images: Tensor, draws: Draws, samples: int, chunk: int) -> Tensor:
    """Row r of the N·s is draw r // N of image r % N; passes have one shape, the last is filled with repeated rows."""
    total = len(images) * samples
    size = -(-total // -(-total // chunk))
    passes = []
    for start in range(0, total, size):
        rows, there = (
            torch.arange(start, start + size, device=device) % total for device in (draws.images.device, images.device)
        )
        passes.append(defended.logits(images[there % len(images)], draws.laid_out(rows)))
    return torch.cat(passes)[:total].reshape(samples, len(images), -1)


def _mean(values: Tensor) -> Tensor:
    """Mean over the first dimension, added in ascending draw order, so that it does not depend on the batch."""
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total / len(values)
