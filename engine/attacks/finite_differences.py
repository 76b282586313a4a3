"""A gradient from predictions alone, by antithetic finite differences: for classifiers whose own gradient is out of reach."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cannonade.attacks.eot import Estimate
from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import Loss
from cannonade.attacks.queries import READINGS, Reading, ask
from cannonade.chunking import Chunk, resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError

_SITE = 8  # random starts use the first sites of the start phase


@dataclass(frozen=True, kw_only=True)
class FiniteDifferences:
    """(1/2σP) Σ (L(x + σu) − L(x − σu))·u over P normal directions u (Ilyas et al., ICML 2018, section 3.1).

    As evolution strategies it is also the attack of Tramèr et al. (NeurIPS 2020) on k-winners-take-all, whose own gradient is
    exact but good for no step: `PGD(loss="margin", gradient=FiniteDifferences(pairs=500, sigma=8 / 255, clip=False))`.

    Every point is asked about with draws of its own: an attacker who only asks cannot choose them.

    Attributes:
        pairs: P, directions of an estimate.
        sigma: σ, in units of [0, 1].
        samples: m, predictions of a point.
        reading: "mean", the mean loss of the predictions; "vote", the lead among their labels.
        clip: whether the points asked about are clipped to [0, 1].
        chunk: rows of one pass, or "auto".
    """

    pairs: int = 25
    sigma: float = 0.01
    samples: int = 1
    reading: Reading = "mean"
    clip: bool = True
    chunk: Chunk = "auto"

    def __post_init__(self) -> None:
        for name, number in (("pairs", self.pairs), ("samples", self.samples)):
            if number < 1:
                raise InputError(f"{name} must be at least 1, got {number}")
        if not self.sigma > 0:
            raise InputError(f"sigma must be positive, got {self.sigma}")
        if self.reading not in READINGS:
            raise InputError(f"reading must be one of {', '.join(READINGS)}, got {self.reading!r}")

    @property
    def queries(self) -> int:
        """Predictions of an estimate."""
        return 2 * self.pairs * self.samples

    def resolved(self, defended: DefendedClassifier, images: Tensor) -> "FiniteDifferences":
        """The same estimator with a number for its chunk."""
        return replace(self, chunk=resolve_chunk(self.chunk, defended, images, len(images) * self.queries))

    @torch.no_grad()
    def estimate(self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws) -> Estimate:
        """The estimated gradient at `images`; see `EOT.estimate`. Direction i is drawn in the start phase, i queries later."""
        chunk = resolve_chunk(self.chunk, defended, images, len(images) * self.queries)
        together = max(1, chunk // (2 * self.samples * len(images)))
        gradient, objective = torch.zeros_like(images), images.new_zeros(len(images))
        for numbers in torch.arange(self.pairs, device=images.device).split(together):
            rows = torch.arange(len(images), device=images.device).repeat(len(numbers))
            pair = numbers.repeat_interleave(len(images))
            own = draws[rows]
            drawn = replace(own, phase=Phase.START, queries=own.queries + pair)
            directions = drawn.site(_SITE).normal(shape=images.shape[1:]).to(images.dtype)
            values = []
            for side, sign in enumerate((1, -1)):
                queries = own.queries + (2 * pair + side) * self.samples
                points = images[rows] + sign * self.sigma * directions
                points = points.clamp(0, 1) if self.clip else points
                value, chunk = ask(
                    defended, points, goal[rows], loss, replace(own, queries=queries), self.samples, self.reading, chunk
                )
                values.append(value)
            slopes = (values[0] - values[1])[:, None, None, None] * directions
            for number in range(len(numbers)):  # in ascending order, so that the sum does not depend on the chunk
                part = slice(number * len(images), (number + 1) * len(images))
                gradient += slopes[part]
                objective += (values[0][part] + values[1][part]) / 2
        return Estimate(gradient / (2 * self.sigma * self.pairs), objective / self.pairs, 0, self.queries, chunk)
