"""Certificates of randomised smoothing: a radius within which no perturbation changes the answer."""

from dataclasses import dataclass
from math import log, log1p
from statistics import NormalDist

import torch
from torch import Tensor

from cannonade.checks import check_images
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.polling import place_of, poll
from cannonade.proportions import Border, anytime_lower, clopper_pearson_lower, fewest_hits, log_evidence_above
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

ABSTAIN = -1


@dataclass(frozen=True)
class Certificates:
    """What was proved about N images.

    Attributes:
        labels: [N] int64, the certified class, or ABSTAIN, −1.
        radius: [N] float64, L2 radius in pixel units of [0, 1] within which the class is certified; 0 where abstained. With a
            radius asked for, that or 0.
        anytime_radius: [N] float64, what the same predictions prove by a bound that holds at all their numbers at once:
            `radius − anytime_radius` is the price of being allowed to stop. The same as `radius` where one was asked for.
        selected: [N] int64, the class that the first n0 predictions chose.
        hits: [N] int64, how many of the `used` ones were for it.
        used: [N] int64, predictions that made the decision, at most n.
        forwards: [N] int64, all predictions, the n0 and those after the decision in the same pass included.
        chunk: rows of one pass.
    """

    labels: Tensor
    radius: Tensor
    anytime_radius: Tensor
    selected: Tensor
    hits: Tensor
    used: Tensor
    forwards: Tensor
    chunk: int


def certified_radius(p_lower: float, sigma: float) -> float:
    """σ·Φ⁻¹(p), 0 for p ≤ ½ (Cohen et al., ICML 2019, theorem 1 with its p_B = 1 − p_A)."""
    return 0.0 if p_lower <= 0.5 else sigma * NormalDist().inv_cdf(min(p_lower, 1 - 2**-53))


def certify(
    defended: DefendedClassifier,
    images: Tensor,
    *,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 1e-3,
    radius: float | None = None,
    ids: Tensor | None = None,
    chunk: Chunk = "auto",
) -> Certificates:
    """Certify a smoothed classifier (Cohen et al., ICML 2019, CERTIFY), each image wrongly with probability at most alpha.

    n0 predictions choose a class; others, of a phase of their own, bound its probability p_A from below. Without `radius` there
    are n of them and the bound is Clopper and Pearson's. With `radius` they stop

    - when the class is certified: the evidence that p_A > Φ(radius/σ) reaches 1/alpha (see `log_evidence_above`);
    - when it can no longer be: not even if all the predictions to come were for it;
    - when the evidence that p_A < Φ(radius/σ) reaches 1/alpha. To give up proves nothing and cannot be wrong, but an image
      whose p_A suffices is missed so with probability at most alpha.

    Args:
        defended: a classifier behind `smoothing(sigma=…)` alone.
        images: [N, 3, H, W] in [0, 1].
        n0: predictions that choose the class.
        n: predictions that bound its probability, at most.
        alpha: probability of a wrong certificate, for each image.
        radius: the L2 radius asked for, in pixel units of [0, 1]; None for the largest that n predictions prove.
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        chunk: rows of one pass, or "auto".

    Raises:
        InputError: another defense, numbers out of range, a radius that n predictions could not prove if all agreed, bad
            images, or logits that are not finite.
    """
    sigma = _sigma(defended)
    _check(n0, n, alpha, radius)
    least = None if radius is None else NormalDist().cdf(radius / sigma)
    if least is not None and int(fewest_hits(torch.tensor([n]), least, alpha)) > n:
        raise InputError(f"radius must be one that n={n} predictions can prove at alpha={alpha}, got {radius}; raise n")
    ids = check_images(images, None, ids)
    chosen = majority_vote(defended, images, n0, phase=Phase.CERTIFY_SELECT, ids=ids, chunk=chunk)
    reading = _Hits(chosen.labels, n) if least is None else _Proof(chosen.labels, n, least, alpha)
    forwards, rows = torch.zeros_like(ids), 0
    if len(images):
        forwards, rows = poll(defended, images, ids, n, reading, phase=Phase.CERTIFY_ESTIMATE, chunk=chunk)
    if isinstance(reading, _Proof):
        proved = reading.verdict > 0
        found = anytime = proved.double() * (radius or 0.0)
    else:
        found = _radii([clopper_pearson_lower(hits, n, alpha) for hits in reading.hits.tolist()], sigma, ids)
        anytime = _radii(anytime_lower(reading.hits, reading.trials, alpha).tolist(), sigma, ids)
        proved = found > 0
    return Certificates(
        labels=torch.where(proved, chosen.labels, ABSTAIN),
        radius=found,
        anytime_radius=anytime,
        selected=chosen.labels,
        hits=reading.hits,
        used=reading.trials,
        forwards=chosen.forwards + forwards,
        chunk=rows,
    )


def _sigma(defended: DefendedClassifier) -> float:
    defense = defended.defense
    if not isinstance(defense, Smoothing) or not defense.sigma > 0:
        raise InputError(
            f"certificates need the defense smoothing(sigma=…) with sigma > 0 and nothing else, got {defense}"
        )
    return defense.sigma


def _check(n0: int, n: int, alpha: float, radius: float | None) -> None:
    for name, value in (("n0", n0), ("n", n)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be in (0, 1), got {alpha}")
    if radius is not None and not radius >= 0:
        raise InputError(f"radius must be at least 0, in pixel units of [0, 1], got {radius}")


def _radii(lower: list[float], sigma: float, like: Tensor) -> Tensor:
    return torch.tensor([certified_radius(p, sigma) for p in lower], dtype=torch.float64, device=like.device)


class _Hits:
    """Counts the predictions of the selected class, n of each image."""

    def __init__(self, selected: Tensor, n: int) -> None:
        self.selected = selected
        self.n = n
        self.hits = torch.zeros_like(selected)
        self.trials = torch.zeros_like(selected)

    def wanted(self) -> Tensor:
        return self.n - self.trials

    def read(self, rows: Tensor, logits: Tensor) -> None:
        self._count(rows, logits.argmax(1) == self.selected[rows])

    def _count(self, rows: Tensor, hit: Tensor) -> None:
        self.hits += torch.bincount(rows[hit], minlength=len(self.hits))
        self.trials += torch.bincount(rows, minlength=len(self.trials))


class _Proof(_Hits):
    """Counts until it is proved that the class has more than the probability `least`, or until that is given up."""

    def __init__(self, selected: Tensor, n: int, least: float, alpha: float) -> None:
        super().__init__(selected, n)
        self.least = least
        self.bar = -log(alpha)
        self.needed = int(fewest_hits(torch.tensor([n]), least, alpha))
        self.above = Border(least, alpha, selected.device)
        self.below = Border(1 - least, alpha, selected.device)
        self.verdict = torch.zeros_like(selected)

    def wanted(self) -> Tensor:
        """Evidence grows at most 1/p-fold with a hit and 1/(1 − p)-fold with a miss: as many of either as it must take."""
        misses = self.trials - self.hits
        above = (self.bar - log_evidence_above(self.hits, self.trials, self.least)) / -log(self.least)
        below = (self.bar - log_evidence_above(misses, self.trials, 1 - self.least)) / -log1p(-self.least)
        sure = above.minimum(below).clamp(1, self.n).ceil().long()
        return torch.where(self.verdict == 0, sure.minimum(self.n - self.trials), 0)

    def read(self, rows: Tensor, logits: Tensor) -> None:
        hit = logits.argmax(1) == self.selected[rows]
        hits = self.hits[rows] + _so_far(rows, hit.long())
        verdict = self._judge(hits, self.trials[rows] + place_of(rows) + 1)
        over = (verdict != 0).long()
        kept = _so_far(rows, over) - over == 0  # what came before the verdict, and the prediction that brought it
        self._count(rows[kept], hit[kept])
        self.verdict[rows[kept & (over > 0)]] = verdict[kept & (over > 0)]

    def _judge(self, hits: Tensor, trials: Tensor) -> Tensor:
        """1 where the class is proved, −1 where it is given up, 0 where neither."""
        proved = hits >= self.above.at(trials)
        refuted = trials - hits >= self.below.at(trials)
        hopeless = hits + self.n - trials < self.needed
        return torch.where(proved, 1, torch.where(hopeless | refuted, -1, 0))


def _so_far(rows: Tensor, values: Tensor) -> Tensor:
    """Sum of an image's values up to and with each row; the images ascend."""
    total = values.cumsum(0)
    first = torch.searchsorted(rows, rows)
    return total - total[first] + values[first]
