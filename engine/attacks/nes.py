"""NES: PGD along gradients that are estimated from predictions alone (Ilyas et al., ICML 2018)."""

from dataclasses import dataclass

from torch import Tensor

from cannonade.attacks.attack import AttackResult
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.goals import Goal
from cannonade.attacks.pgd import PGD
from cannonade.attacks.queries import Reading
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError


@dataclass(frozen=True, kw_only=True)
class NES:
    """PGD with a budget of predictions and `FiniteDifferences` for gradients.

    Attributes:
        eps: radius of the ball in units of [0, 1].
        norm: "linf", "l2" or "l1".
        queries: the budget, predictions per image; each step takes 2·pairs·samples.
        step_size: of each step, in the units of eps.
        loss: of the scores.
        pairs: directions of an estimate.
        sigma: how far from the point it is asked, in units of [0, 1].
        samples: m, predictions of a point.
        reading: "mean" or "vote", what is read off them.
        momentum: of the steps, as in `PGD`.
        chunk: rows of one pass, or "auto".
    """

    eps: float = 8 / 255
    norm: str = "linf"
    queries: int = 1000
    step_size: float = 2 / 255
    loss: str = "cross_entropy"
    pairs: int = 25
    sigma: float = 0.01
    samples: int = 1
    reading: Reading = "mean"
    momentum: float = 0.0
    chunk: Chunk = "auto"

    def __post_init__(self) -> None:
        if self.queries < self._differences.queries:
            raise InputError(
                f"queries must cover one estimate, 2·pairs·samples = {self._differences.queries}, got {self.queries}"
            )
        _ = self.attack

    @property
    def attack(self) -> PGD:
        """The same as PGD."""
        return PGD(
            eps=self.eps,
            steps=self.queries // self._differences.queries,
            step_size=self.step_size,
            norm=self.norm,
            loss=self.loss,
            momentum=self.momentum,
            gradient=self._differences,
        )

    @property
    def _differences(self) -> FiniteDifferences:
        return FiniteDifferences(
            pairs=self.pairs, sigma=self.sigma, samples=self.samples, reading=self.reading, chunk=self.chunk
        )

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch; see `PGD`."""
        return self.attack(defended, images, goal, ids=ids)
