"""How AutoPGD chooses its steps, for each image by itself: from the course of its objective, or from its sparsity."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cannonade.attacks.norms import Norm, sparse_step


class Steps(ABC):
    """The steps of one climb, from checkpoint to checkpoint.

    Attributes:
        momentum: weight of the previous movement in each but the first.
        size: [N], norm of each image's next step.
    """

    momentum: float
    size: Tensor

    @abstractmethod
    def step(self, gradient: Tensor) -> Tensor:
        """The next step along a gradient: [N, C, H, W]."""

    @abstractmethod
    def observe(self, objective: Tensor, best: Tensor, perturbation: Tensor) -> Tensor:
        """Take note of where a step led, and adapt at a checkpoint.

        Args:
            objective: [N], after the step.
            best: [N], the largest objective so far.
            perturbation: [N, C, H, W], of the best point.

        Returns:
            [N] bool, which images go on from their best point.
        """


class HalvingSteps(Steps):
    """Steps of 2·eps that are halved where they stopped helping (Croce & Hein, ICML 2020, section 3).

    At a checkpoint an image's size is halved, and it returns to its best point, where the objective rose in at most rho of the
    steps since the last checkpoint, or where neither size nor best objective have changed since then.
    """

    momentum = 0.25

    def __init__(self, norm: Norm, objective: Tensor, *, eps: float, steps: int, rho: float) -> None:
        self.size = torch.full_like(objective, 2 * eps)
        self._norm, self._rho = norm, rho
        self._period, self._least, self._less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
        self._elapsed = 0
        self._last = self._best_at_checkpoint = objective
        self._rises = torch.zeros_like(objective)
        self._halved = torch.ones_like(objective, dtype=torch.bool)

    def step(self, gradient: Tensor) -> Tensor:
        """The norm's own direction, `size` long."""
        return self.size[:, None, None, None] * self._norm.step(gradient)

    def observe(self, objective: Tensor, best: Tensor, perturbation: Tensor) -> Tensor:
        """See the class."""
        self._rises = self._rises + (objective > self._last)
        self._last = objective
        self._elapsed += 1
        if self._elapsed < self._period:
            return torch.zeros_like(self._halved)
        stuck = ~self._halved & (best <= self._best_at_checkpoint)
        self._halved = (self._rises <= self._rho * self._period) | stuck
        self.size = torch.where(self._halved, self.size / 2, self.size)
        self._best_at_checkpoint = best
        self._rises = torch.zeros_like(objective)
        self._elapsed, self._period = 0, max(self._period - self._less, self._least)
        return self._halved


class SparseSteps(Steps):
    """Steps in few coordinates, as many as the best perturbation asks for (Croce & Hein, ICML 2021).

    At a checkpoint the next steps may change 2/3 as many coordinates as the best perturbation has. Where it has lost more than
    5 % of them since the last checkpoint the size starts again at eps, from the best point; elsewhere it is divided by 1.5,
    down to eps/10.
    """

    momentum = 0.0

    def __init__(self, objective: Tensor, coordinates: int, *, eps: float, steps: int) -> None:
        self.size = torch.full_like(objective, eps)
        self._eps, self._coordinates = eps, coordinates
        self._share = torch.full_like(objective, 0.2)
        self._count = torch.full_like(objective, coordinates)
        self._period = max(int(0.04 * steps), 1)
        self._elapsed = 0

    def step(self, gradient: Tensor) -> Tensor:
        """The largest coordinates' signs, `size` long."""
        return self.size[:, None, None, None] * sparse_step(gradient, self._share)

    def observe(self, objective: Tensor, best: Tensor, perturbation: Tensor) -> Tensor:
        """See the class."""
        self._elapsed += 1
        if self._elapsed < self._period:
            return torch.zeros_like(objective, dtype=torch.bool)
        count = perturbation.flatten(1).count_nonzero(1).to(objective.dtype)
        sparser = count < 0.95 * self._count
        self._share = count / self._coordinates / 1.5
        self.size = torch.where(sparser, self._eps, (self.size / 1.5).clamp(min=self._eps / 10))
        self._count, self._elapsed = count, 0
        return sparser
