"""`cannonade bench votes`: what stopping a vote early saves on real images, and whether it ever changes a label.

All n predictions of every image are made once and kept in their order; each rule then sees them one by one, exactly as it
would have while they were made, because the draws of an image depend on nothing else.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.experiments.early_stopping import binomial_looks, decide
from cannonade.polling import place_of, poll
from cannonade.stopping import Race

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001)
RULES = ("exact", "sequential", "binomial")


class _Record:
    """A reading that keeps every label in the order of the queries."""

    def __init__(self, images: int, n: int) -> None:
        self.votes = torch.full((images, n), -1)
        self.cast = torch.zeros(images, dtype=torch.int64)

    def wanted(self) -> Tensor:
        return self.votes.shape[1] - self.cast

    def read(self, rows: Tensor, logits: Tensor) -> None:
        self.votes[rows, self.cast[rows] + place_of(rows)] = logits.argmax(1).cpu()
        self.cast += torch.bincount(rows.cpu(), minlength=len(self.cast))


@dataclass(frozen=True)
class Bin:
    """The images whose leader's share of all n votes lies in an interval.

    Attributes:
        low, high: the interval, its lower end included.
        images: their number.
        used: mean votes, by rule.
        disagreements: labels other than that of all n votes, by rule.
    """

    low: float
    high: float
    images: int
    used: dict[str, float]
    disagreements: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def cast_votes(
    defended: DefendedClassifier, images: Tensor, ids: Tensor, n: int, *, phase: Phase = Phase.BENIGN_VOTE
) -> Tensor:
    """[N, n] int64, the label of each prediction in the order of the queries."""
    record = _Record(len(images), n)
    poll(defended, images, ids, n, record, phase=phase)
    return record.votes


def count(votes: Tensor, classes: int) -> Tensor:
    """Votes for each class: [N, n] to [N, K]."""
    return torch.zeros(len(votes), classes, dtype=torch.int64).scatter_add_(1, votes, torch.ones_like(votes))


def compare(votes: Tensor, classes: int, *, alpha: float) -> Iterator[Bin]:
    """Replay the votes [N, n] under every rule; bins by the leader's share, then all images as one bin."""
    images, n = votes.shape
    counts = count(votes, classes)
    winner = counts.argmax(1)
    races = {"exact": 0.0, "sequential": alpha}
    used, labels = {}, {}
    for rule, level in races.items():
        race = decide(Race(images, classes, n, level), votes)
        used[rule], labels[rule] = race.cast, race.labels
    used["binomial"], labels["binomial"] = binomial_looks(votes, classes, alpha)
    share = counts.amax(1) / n
    for low, high in [*pairwise(EDGES), (EDGES[0], EDGES[-1])]:
        own = (share >= low) & (share < high)
        if own.any():
            yield Bin(
                low,
                min(high, 1.0),
                int(own.sum()),
                {rule: float(used[rule][own].double().mean()) for rule in RULES},
                {rule: int((labels[rule] != winner)[own].sum()) for rule in RULES},
            )
