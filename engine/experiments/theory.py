"""The paper's one-dimensional Gaussian task (section 5): closed forms, and the same rates through the engine's own parts.

Labels y ∈ {−1, +1} are equally likely and x | y ~ N(y, 1). The defense adds θ ~ N(1, σ²), and the classifier answers
sgn(x + θ − k): k = 0 before it was trained on defended data, k = 1 after. Here x is the red value of one pixel,
(x + 12) / 24; green and blue are there because images are RGB, and are not looked at.
"""

from dataclasses import dataclass
from math import asin, comb, pi, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import evaluate_batch
from cannonade.transforms import Transform
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

HALF_WIDTH = 12.0  # x is clipped to ±12: eleven standard deviations from either mean
_SCALE = 2 * HALF_WIDTH
_LEAST_SIGMA, _MOST_SIGMA = 0.05, 10.0
_NODES = np.polynomial.legendre.leggauss(400)


class SignClassifier(nn.Module):
    """sgn(x − k) of one pixel, as logits (−(x − k), x − k) of the classes (−1, +1)."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, 1, 1] in [0, 1] → [N, 2]."""
        x = (images[:, 0].flatten(1) * _SCALE - HALF_WIDTH) - self.k
        return torch.cat((-x, x), dim=1)


@dataclass(frozen=True)
class Share:
    """A robust accuracy, the share of correctly classified points that stay correct under attack, or an invariance.

    Attributes:
        value: the share.
        points: of how many points.
    """

    value: float
    points: int

    @property
    def standard_error(self) -> float:
        """Of the value, as a binomial share."""
        return sqrt(self.value * (1 - self.value) / self.points)


def simulate(
    *,
    k: float,
    eps: float,
    sigma: float | None,
    n: int = 1,
    shared_draws: bool = False,
    points: int = 100_000,
    seed: int = 0,
) -> Share:
    """The robust accuracy A(k) by the engine's own PGD, defense and vote.

    Args:
        k: shift of the classifier.
        eps: radius of the attack, in units of x.
        sigma: of the defense; None for the undefended classifier.
        n: predictions of a majority vote.
        shared_draws: whether the prediction under attack sees the θ of the benign one, as equations (5) and (6) assume.
        points: number of points, half of each label.
        seed: of the points and of every draw.
    """
    images, labels = _points(points, seed)
    outcome = evaluate_batch(
        _defended(k, sigma, seed),
        images,
        labels,
        PGD(eps=eps / _SCALE, steps=1, step_size=eps / _SCALE),
        votes=n,
        shared_draws=shared_draws,
    )
    kept = ~outcome.success
    return Share(float(kept.double().mean()), len(kept))


def simulate_invariance(*, k: float, sigma: float, points: int = 100_000, seed: int = 0) -> Share:
    """The invariance R(k), Pr[F_θ(x) = F(x)] with F(x) = sgn(x), by the engine's own defense and vote; see `simulate`."""
    images, _ = _points(points, seed)
    plain = majority_vote(_defended(0, None, seed), images, 1).labels
    defended = majority_vote(_defended(k, sigma, seed), images, 1).labels
    return Share(float((defended == plain).double().mean()), points)


def _points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points as images [N, 3, 1, 1], and their labels [N], 0 for −1."""
    ids = torch.arange(count)
    labels = ids % 2
    source = Draws(seed=seed, phase=Phase.TRAINING, images=ids, queries=torch.zeros_like(ids))
    x = source.site(0).normal() + (2.0 * labels - 1)
    return ((x + HALF_WIDTH) / _SCALE).clamp(0, 1)[:, None, None, None].expand(-1, 3, 1, 1), labels


def _defended(k: float, sigma: float | None, seed: int) -> DefendedClassifier:
    classifier = Classifier(SignClassifier(k), input_size=(1, 1))
    defense: Transform = Identity() if sigma is None else Smoothing(sigma=sigma / _SCALE, mean=1 / _SCALE)
    return DefendedClassifier(classifier, defense, seed=seed)


def undefended(eps: float) -> float:
    """Φ(1 − ε) / Φ(1): equations (4) and (8)."""
    return _normal_cdf(1 - eps) / _normal_cdf(1)


def defended_shared(eps: float, sigma: float, k: float) -> float:
    """A(k), robust accuracy for any shift k; equation (5) is k = 0 and (6) is k = 1. Both predictions see the same θ.

    [Φ'(2 − k − ε) + Φ'(k − ε)] / [Φ'(2 − k) + Φ'(k)], with Φ' the distribution function of N(0, 1 + σ²).
    """
    scale = sqrt(1 + sigma * sigma)
    kept = _normal_cdf((2 - k - eps) / scale) + _normal_cdf((k - eps) / scale)
    return kept / (_normal_cdf((2 - k) / scale) + _normal_cdf(k / scale))


def invariance(sigma: float, k: float) -> float:
    """R(k) = Pr[sgn(x + θ − k) = sgn(x)]: how often the defended classifier answers as the undefended one.

    ½ Σ_y [Φ₂(y, b; ρ) + Φ₂(−y, −b; ρ)] with b = ρ(y + 1 − k) and ρ = 1/√(1 + σ²), the correlation of x and x + θ.

    Args:
        sigma: of the defense, at least 0.05: the numerical integral is exact to 1e-9 there.
        k: shift of the classifier.

    Raises:
        InputError: sigma is smaller.
    """
    if not sigma >= _LEAST_SIGMA:
        raise InputError(f"sigma must be at least {_LEAST_SIGMA} for the invariance, got {sigma}")
    rho = 1 / sqrt(1 + sigma * sigma)
    return sum(
        _both_below(y, rho * (y + 1 - k), rho) + _both_below(-y, -rho * (y + 1 - k), rho) for y in (-1.0, 1.0)
    ) / 2  # fmt: skip


def least_sigma(eps: float) -> float:
    """The σ from which on the order (5) > (6) > (4) holds; for smaller ones it does not. 0 where it always holds.

    The order changes at most once between 0 and 10, for eps in (0, 2].
    """
    low, high = 0.0, _MOST_SIGMA
    for _ in range(40):
        middle = (low + high) / 2
        five, six = (defended_shared(eps, middle, k) for k in (0, 1))
        low, high = (low, middle) if five > six > undefended(eps) else (middle, high)
    return high


def defended_independent(eps: float, sigma: float, k: float, n: int = 1) -> float:
    """E[p(x)·p(x − yε)] / E[p(x)], p(x) the probability that a vote of n independent predictions is right.

    One prediction is right with probability Φ(y(x + 1 − k)/σ). A tie goes to the smaller label, −1.
    """
    x = np.linspace(-HALF_WIDTH, HALF_WIDTH, 20_001)
    kept = right = 0.0
    for y in (-1.0, 1.0):
        density = np.exp(-((x - y) ** 2) / 2)
        before = _vote(_cdf(y * (x + 1 - k) / sigma), n, wins_ties=y < 0)
        after = _vote(_cdf(y * (x - y * eps + 1 - k) / sigma), n, wins_ties=y < 0)
        kept += float((density * before * after).sum())
        right += float((density * before).sum())
    return kept / right


def _vote(p: NDArray[np.float64], n: int, wins_ties: bool) -> NDArray[np.float64]:
    """Probability that more than half of n predictions are right, or half where ties are won."""
    needed = (n + 1) // 2 if wins_ties else n // 2 + 1
    terms = [comb(n, hits) * p**hits * (1 - p) ** (n - hits) for hits in range(needed, n + 1)]
    total: NDArray[np.float64] = np.sum(terms, axis=0)
    return total


def _both_below(h: float, k: float, rho: float) -> float:
    """Φ₂(h, k; ρ), 0 ≤ ρ < 1, by Gauss-Legendre quadrature of Plackett's identity (Drezner & Wesolowsky 1990)."""
    end = asin(rho)
    angles, weights = _NODES
    t = end * (angles + 1) / 2
    density = np.exp(-(h * h + k * k - 2 * h * k * np.sin(t)) / (2 * np.cos(t) ** 2))
    return _normal_cdf(h) * _normal_cdf(k) + float((weights * density).sum()) * end / 2 / (2 * pi)


def _cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    ndtr: NDArray[np.float64] = torch.special.ndtr(torch.from_numpy(x)).numpy()
    return ndtr


def _normal_cdf(x: float) -> float:
    return float(_cdf(np.array([x]))[0])
