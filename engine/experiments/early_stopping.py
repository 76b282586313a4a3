"""What stopping a vote early saves and risks: the rules of `cannonade.stopping` beside binomial tests at fixed looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from cannonade.stopping import Race

LOOKS = (8, 12, 16, 20, 24, 32, 40, 52, 64, 80, 100, 128, 160, 200, 250, 320, 400)
SHARES = (0.34, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Savings:
    """What one rule used at one share of the votes, and how often its label was not that of all votes."""

    share: float
    rule: str
    votes: float
    disagreements: int


def shuffled(counts: Sequence[int], repetitions: int, seed: int = 0) -> Tensor:
    """Random orders of fixed counts: [R, Σ counts] labels."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(repetitions)])


def decide(race: Race, votes: Tensor) -> Race:
    """Let a race see the votes [R, n] one by one until it is decided."""
    every = torch.arange(len(votes))
    for column in votes.T:
        open_ = every[~race.decided]
        if not len(open_):
            break
        race.add(open_, column[open_])
    return race


def binomial_looks(
    votes: Tensor, classes: int, alpha: float, *, looks: Sequence[int] = LOOKS, divisor: int | None = None
) -> tuple[Tensor, Tensor]:
    """The rule to compare with: stop at a look where P[Bin(A + B, ½) ≥ A] ≤ alpha / divisor, A and B the two largest counts.

    Args:
        votes: [R, n].
        classes: K.
        alpha: probability of a wrong label.
        looks: numbers of votes at which one looks.
        divisor: number of looks × (K − 1) by default, the union bound over both; less is a rule without its proof.

    Returns:
        [R] votes used and [R] labels.
    """
    repetitions, n = votes.shape
    least = log(alpha / (len(looks) * (classes - 1) if divisor is None else divisor))
    tails = _log_tails(n)
    used = torch.full((repetitions,), n)
    labels = _counts(votes, classes).argmax(1)
    for look in sorted(looks, reverse=True):
        if look < n:
            counts = _counts(votes[:, :look], classes)
            first, second = counts.topk(2, dim=1).values.T
            stopped = tails[first + second, first] <= least
            used = torch.where(stopped, look, used)
            labels = torch.where(stopped, counts.argmax(1), labels)
    return used, labels


def savings(
    repetitions: int = 2000, *, n: int = 500, alpha: float = 1e-3, classes: int = 1000, shares: Sequence[float] = SHARES
) -> list[Savings]:
    """Votes used and disagreements with all n, for a class with a share of the votes and two rivals, 3 : 2.

    Args:
        repetitions: random orders of each share.
        n: votes.
        alpha: of the sequential rules.
        classes: K; only three have votes. It matters to the binomial rule alone, so the races are run with four.
        shares: of the class; at .34 the first rival, with .396, is ahead of it.
    """
    rows = []
    for share in shares:
        favourite = round(n * share)
        rival = round((n - favourite) * 0.6)
        counts = (favourite, rival, n - favourite - rival)
        votes = shuffled(counts, repetitions)
        winner = torch.tensor(counts).argmax()
        for rule, level in (("exact", 0.0), ("sequential", alpha)):
            race = decide(Race(repetitions, 4, n, level), votes)
            rows.append(Savings(share, rule, float(race.cast.double().mean()), int((race.labels != winner).sum())))
        used, labels = binomial_looks(votes, classes, alpha)
        rows.append(Savings(share, "binomial", float(used.double().mean()), int((labels != winner).sum())))
    return rows


def _counts(votes: Tensor, classes: int) -> Tensor:
    counts = torch.zeros(len(votes), classes, dtype=torch.int64)
    return counts.scatter_add_(1, votes, torch.ones_like(votes))


def _log_tails(n: int) -> Tensor:
    """log P[Bin(m, ½) ≥ a] at [m, a]."""
    m, a = torch.arange(n + 1, dtype=torch.float64)[:, None], torch.arange(n + 1, dtype=torch.float64)
    chance = torch.lgamma(m + 1) - torch.lgamma(a + 1) - torch.lgamma((m - a).clamp(min=0) + 1) - m * log(2)
    return torch.where(a <= m, chance, -torch.inf).flip(1).logcumsumexp(1).flip(1)
