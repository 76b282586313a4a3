"""Rates with their uncertainty."""

from math import comb, sqrt
from statistics import NormalDist


def rate(successes: int, trials: int) -> float | None:
    """successes / trials; None where nothing was tried."""
    return successes / trials if trials else None


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion (Wilson, JASA 1927); None where nothing was tried.

    Args:
        successes: in 0 … trials.
        trials: number of independent trials.
        confidence: in (0, 1).
    """
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(first: int, second: int) -> float:
    """Two-sided exact p-value that discordant pairs fall either way with probability ½ (McNemar, Psychometrika 1947).

    Args:
        first, second: trials that only the one, and only the other, passed.
    """
    total = first + second
    ways = sum(comb(total, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * float(ways / 2**total))
