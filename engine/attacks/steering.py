"""What AutoPGD asks of a stochastic classifier: gradients of fresh draws, and objectives that can be compared."""

from dataclasses import replace

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.forwards import Predictions, predict
from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import Loss
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase


class Steering:
    """Gradients and objectives for a batch, with their draws and what they cost.

    With `eval_samples` > 0 an objective is the mean over as many draws of the selection phase, the same for an image
    throughout a restart, and a gradient is always computed anew. With 0 the m draws of the gradient serve both; the gradient of
    the best point is then kept, for a return to it.

    Attributes:
        cost: [4, N] int64: gradients, forwards, and how many gradients were not finite, and zero.
    """

    def __init__(
        self, defended: DefendedClassifier, goal: Goal, ids: Tensor, loss: Loss, eot: EOT, eval_samples: int
    ) -> None:
        self._defended, self._goal, self._ids, self._loss = defended, goal, ids.cpu(), loss
        self._eot, self._eval_samples = eot, eval_samples
        self.cost = ids.new_zeros(4, len(ids))
        self._asked = 0  # draws of so many gradients are used, over all restarts
        self._restart = 0
        self._latest = self._best = ids.new_zeros(len(ids), 1, 1, 1)

    @property
    def chunk(self) -> int:
        """Rows of one pass."""
        return int(self._eot.chunk)

    def draws(self, phase: Phase, query: int) -> Draws:
        """One stream per image, on the host."""
        return Draws(seed=self._defended.seed, phase=phase, images=self._ids, queries=torch.full_like(self._ids, query))

    def restart(self, number: int) -> None:
        """Go over to the draws of a restart."""
        self._restart = number

    def all_zero(self) -> bool:
        """Whether all gradients were zero."""
        gradients, _, _, zero = self.cost
        return bool((zero * self._eot.samples == gradients).all())

    def objective(self, images: Tensor, *, last: bool) -> Tensor:
        """[N], the objective to steer by; `last` says that no gradient will be asked for there."""
        if self._eval_samples:
            return self._value(self._predict(images, Phase.SELECTION, self._restart, self._eval_samples))
        if last:
            number = 0 if self._eot.common else self._asked
            self._asked += 1
            return self._value(self._predict(images, Phase.ATTACK, number, self._eot.samples))
        self._latest, objective = self._estimate(images)
        return objective

    def keep(self, better: Tensor) -> None:
        """Note which images are at their best point."""
        self._best = torch.where(better[:, None, None, None], self._latest, self._best)

    def gradient(self, images: Tensor, back: Tensor) -> Tensor:
        """[N, C, H, W] at the images, of which those in `back` have returned to their best point."""
        if self._eval_samples:
            return self._estimate(images)[0]
        return torch.where(back[:, None, None, None], self._best, self._latest)

    def judge(self, images: Tensor, objective: Tensor, restarts: int) -> tuple[Tensor, Tensor]:
        """How good the best point of a restart is, on draws that none of the restarts has steered by.

        Args:
            images: [N, C, H, W].
            objective: [N], their objective, which counts where there are no draws to steer by.
            restarts: how many there are in all.

        Returns:
            [N], the share of draws that reach the goal, and [N], the objective.
        """
        if not self._eval_samples:
            return torch.zeros_like(objective), objective
        predictions = self._predict(images, Phase.SELECTION, restarts, self._eval_samples)
        return predictions.share_reached(self._goal), self._value(predictions)

    def _estimate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        draws = self.draws(Phase.ATTACK, self._asked * self._eot.queries)
        estimate = self._eot.estimate(self._defended, images, self._goal, self._loss, draws)
        self._asked += 1
        self._eot = replace(self._eot, chunk=estimate.chunk)
        gradient = estimate.gradient.flatten(1)
        self.cost[0] += estimate.gradients
        self.cost[1] += estimate.forwards
        self.cost[2] += ~gradient.isfinite().all(1)
        self.cost[3] += ~gradient.any(1)
        return estimate.gradient, estimate.objective

    def _predict(self, images: Tensor, phase: Phase, number: int, samples: int) -> Predictions:
        """Predict by the set of draws with this number."""
        predictions = predict(self._defended, images, self.draws(phase, number * samples), samples, self.chunk)
        self._eot = replace(self._eot, chunk=predictions.chunk)
        self.cost[1] += samples
        return predictions

    def _value(self, predictions: Predictions) -> Tensor:
        return predictions.objective(self._goal, self._loss, self._eot.average)
