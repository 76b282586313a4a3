"""Majority vote and its kin: the answer of a stochastic classifier over n predictions."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cannonade.checks import check_images
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.kernels.votes import count_votes_
from cannonade.polling import poll, turns
from cannonade.stopping import Race

Stop = Literal["exact", "sequential"]
Rule = Literal["majority", "all", "any", "mean_probs", "mean_logits"]
_MEANS = ("mean_probs", "mean_logits")
_RULES = ("majority", "all", "any", *_MEANS)


@dataclass(frozen=True)
class Votes:
    """The outcome of a vote.

    Attributes:
        counts: [N, K] int64, votes for each class, up to the decision where a vote was stopped.
        labels: [N] int64. majority, any: the class with most votes, the smaller one on ties; all: the class that got every
            vote, −1 where there is none; mean_probs, mean_logits: the class of the largest mean.
        forwards: [N] int64, predictions that each image took, those after its decision in the same pass included.
        chunk: rows of one pass, smaller than asked for after a retreat for memory.
        reading: how the votes were read.
        means: [N, K] float64, mean probabilities or logits; None for the other readings.

    Example:
        >>> Votes(torch.tensor([[7, 3]]), torch.tensor([0]), torch.tensor([10]), chunk=10).holds(torch.tensor([0]))
        tensor([True])
    """

    counts: Tensor
    labels: Tensor
    forwards: Tensor
    chunk: int
    reading: Rule = "majority"
    means: Tensor | None = None

    @property
    def used(self) -> Tensor:
        """[N] int64, the votes that made the decision; it does not depend on the chunk."""
        return self.counts.sum(1)

    def holds(self, classes: Tensor) -> Tensor:
        """Whether the classifier's answer is, for any: can be, the class.

        An untargeted attack has succeeded where the true label does not hold, a targeted one where the target does. Under `all`
        one wrong draw is success for the former, and every draw must hit for the latter; under `any` no draw may be right
        for the former, and one hit is enough for the latter.

        Args:
            classes: [N] int64.

        Returns:
            [N] bool.
        """
        if self.reading == "any":
            return self.counts.gather(1, classes[:, None])[:, 0] > 0
        return self.labels == classes


def majority_vote(
    defended: DefendedClassifier,
    images: Tensor,
    n: int,
    *,
    stop: Stop | None = None,
    alpha: float = 1e-3,
    reading: Rule = "majority",
    phase: Phase = Phase.FINAL_VOTE,
    ids: Tensor | None = None,
    chunk: Chunk = "auto",
) -> Votes:
    """Predict every image up to n times, each with a draw of its own, and decide (paper, section 3 and appendix A.1).

    Draws, counts and labels of an image depend neither on the chunk nor on the other images.

    Args:
        defended: the stochastic classifier.
        images: [N, 3, H, W] in [0, 1].
        n: predictions per image.
        stop: None, all n; "exact", as soon as the rest of the n cannot change the label; "sequential", as soon as another label
            than that of all n has probability at most alpha. `cannonade.stopping.Race` has the rules and their proof. The
            reading `all` stops at its second label, whichever is named.
        alpha: of the sequential rule, for each image.
        reading: what decides: the majority; `all` or `any` of the draws; the mean probabilities or logits.
        phase: what the vote is for; votes of different phases share no draws.
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        chunk: rows of one pass, or "auto".

    Raises:
        InputError: n < 1, alpha outside (0, 1), an unknown or unstoppable reading, bad images, or logits that are not finite.

    Example:
        >>> from cannonade import build_defense
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> defended = DefendedClassifier(net, build_defense("smoothing(sigma=0.1)"))
        >>> majority_vote(defended, torch.rand(2, 3, 8, 8), n=20, stop="exact").counts.shape
        torch.Size([2, 3])
    """
    if n < 1:
        raise InputError(f"votes must be at least 1, got {n}")
    if stop not in (None, "exact", "sequential"):
        raise InputError(f"stop must be None, 'exact' or 'sequential', got {stop!r}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be in (0, 1), got {alpha}; for no error at all use stop='exact'")
    if reading not in _RULES:
        raise InputError(f"reading must be one of {', '.join(_RULES)}, got {reading!r}")
    if stop is not None and reading not in ("majority", "all"):
        raise InputError(f"the reading {reading} needs all n predictions: use stop=None, got {stop!r}")
    ids = check_images(images, None, ids)
    tally = _tally(len(images), defended.num_classes, n, stop, alpha, reading, images.device)
    if not len(images):
        return Votes(tally.counts, tally.labels, tally.cast, 0, reading, tally.means)
    forwards, used = poll(defended, images, ids, n, tally, phase=phase, chunk=chunk)
    return Votes(tally.counts, tally.labels, forwards, used, reading, tally.means)


class _Tally:
    """All n votes are counted."""

    means: Tensor | None = None

    def __init__(self, images: int, classes: int, n: int, device: torch.device) -> None:
        self.n = n
        self.counts = torch.zeros(images, classes, dtype=torch.int64, device=device)

    @property
    def cast(self) -> Tensor:
        return self.counts.sum(1)

    @property
    def labels(self) -> Tensor:
        return self.counts.argmax(1)

    def wanted(self) -> Tensor:
        return self.n - self.cast

    def read(self, rows: Tensor, logits: Tensor) -> None:
        count_votes_(self.counts, rows, logits)


class _Unanimity(_Tally):
    """The class that all n votes are for; with `stop`, an image is decided at its second label."""

    def __init__(self, images: int, classes: int, n: int, device: torch.device, stop: bool) -> None:
        super().__init__(images, classes, n, device)
        self.stop = stop

    @property
    def _split(self) -> Tensor:
        return (self.counts > 0).sum(1) > 1

    @property
    def labels(self) -> Tensor:
        return torch.where(self._split, -1, super().labels)

    def wanted(self) -> Tensor:
        """Every next vote may be the one that differs, but most images that are unanimous stay so: ever more at a time."""
        left = super().wanted()
        return torch.where(self._split, 0, left.minimum(1 + self.cast)) if self.stop else left

    def read(self, rows: Tensor, logits: Tensor) -> None:
        if not self.stop:
            return super().read(rows, logits)
        for turn in turns(rows):
            open_ = turn[~self._split[rows[turn]]]
            super().read(rows[open_], logits[open_])


class _Mean(_Tally):
    """Mean logits or probabilities, added in the order of the queries whatever the chunk."""

    def __init__(self, images: int, classes: int, n: int, device: torch.device, probs: bool) -> None:
        super().__init__(images, classes, n, device)
        self.probs = probs
        self.sums = torch.zeros(images, classes, dtype=torch.float64, device=device)

    @property
    def means(self) -> Tensor:  # type: ignore[override]
        return self.sums / self.n

    @property
    def labels(self) -> Tensor:
        return self.sums.argmax(1)

    def read(self, rows: Tensor, logits: Tensor) -> None:
        super().read(rows, logits)
        values = logits.double().softmax(1) if self.probs else logits.double()
        for turn in turns(rows):  # different images in each turn, so that no two additions meet
            self.sums[rows[turn]] += values[turn]


class _Race(Race):
    """A majority that may be decided before all n votes are counted."""

    means: Tensor | None = None

    def read(self, rows: Tensor, logits: Tensor) -> None:
        votes = logits.argmax(1)
        for turn in turns(rows):
            self.add(rows[turn], votes[turn])


def _tally(
    images: int, classes: int, n: int, stop: Stop | None, alpha: float, reading: Rule, device: torch.device
) -> _Tally | _Race:
    if reading in _MEANS:
        return _Mean(images, classes, n, device, probs=reading == "mean_probs")
    if reading == "all":
        return _Unanimity(images, classes, n, device, stop is not None)
    if stop is None or reading == "any":
        return _Tally(images, classes, n, device)
    return _Race(images, classes, n, alpha if stop == "sequential" else 0.0, device)
