"""What hits in independent trials prove about their probability: for a fixed number of trials, and while they come in."""

from functools import lru_cache
from math import exp, lgamma, log, log1p, pi

import torch
from torch import Tensor

from cannonade.errors import InputError

_GRID = 512  # angles between them are as fine as one standard deviation at 100,000 trials
_BLOCK = 256
_BISECTIONS = 60
_TINY = 1e-300


@lru_cache(maxsize=1 << 14)  # a data set asks about the same counts again and again
def clopper_pearson_lower(hits: int, trials: int, alpha: float) -> float:
    """One-sided lower confidence bound of a probability (Clopper and Pearson, Biometrika 1934).

    The p at which `hits` or more of `trials` have probability alpha, to 1e-12: 1 − alpha confident if `trials` was fixed
    beforehand.

    Raises:
        InputError: not 0 <= hits <= trials, or alpha outside (0, 1).
    """
    if not 0 <= hits <= trials or trials < 1:
        raise InputError(f"hits must be in 0 … trials, and trials at least 1, got {hits} of {trials}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be in (0, 1), got {alpha}")
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / trials
    if _tail(high, hits, trials) <= alpha:
        low, high = high, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(middle, hits, trials) <= alpha else (low, middle)
    return low


def _tail(p: float, hits: int, trials: int) -> float:
    """P[Bin(trials, p) ≥ hits], hits ≥ 1: the regularised incomplete beta function I_p(hits, trials − hits + 1)."""
    if p <= 0 or p >= 1:
        return float(p >= 1)
    a, b = hits, trials - hits + 1
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(p) + b * log1p(-p))
    if p < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, p) / a
    return 1 - front * _fraction(b, a, 1 - p) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method (DLMF 8.17.22)."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    value, m, change = d, 0, 0.0
    while abs(change - 1) > 1e-15 and m < 100_000:
        m += 1
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _nonzero(1 + term * d)
            c = _nonzero(1 + term / c)
            change = c * d
            value *= change
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def log_evidence_above(hits: Tensor, trials: Tensor, p: float) -> Tensor:
    """Evidence that a probability is more than p, for trials that are watched as they come in.

    The logarithm of M = mean over q of (q/p)^hits·((1 − q)/(1 − p))^(trials − hits), with 512 q between p and 1, equally far
    apart in angle arcsin √q. If the probability is r ≤ p, another trial multiplies the term of each q > p on average by
    r·q/p + (1 − r)(1 − q)/(1 − p), which is 1 at r = p and grows with r: at most 1. So M is a nonnegative supermartingale that
    starts at 1, and whatever the number of looks it reaches 1/alpha with probability at most alpha (Ville 1939; Robbins, Ann.
    Math. Stat. 1970; Waudby-Smith and Ramdas, JRSS B 2024).

    Args:
        hits, trials: [R] int64.
        p: in [0, 1); at 1 nothing can be shown.

    Returns:
        [R] float64.
    """
    if p >= 1:
        return torch.full(hits.shape, -torch.inf, dtype=torch.float64, device=hits.device)
    grid = _angles(torch.tensor(p, dtype=torch.float64, device=hits.device).sqrt().asin())
    return _log_mixture(hits, trials, grid, torch.tensor(p, dtype=torch.float64, device=hits.device))


def fewest_hits(
    trials: Tensor, p: float, alpha: float, *, low: int | Tensor = -1, high: Tensor | None = None
) -> Tensor:
    """How many hits bring the evidence above p to 1/alpha: [R] int64, trials + 1 where not even all of them do.

    Args:
        trials: [R] int64.
        p: in [0, 1].
        alpha: in (0, 1).
        low: a number of hits known to be too small.
        high: [R], numbers known to be large enough; trials + 1 by default.
    """
    low = torch.zeros_like(trials) + low
    high = trials + 1 if high is None else high
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        enough = (log_evidence_above(middle, trials, p) >= -log(alpha)) & (middle <= trials)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


class Border:
    """`fewest_hits` of every number of trials, computed as far as it is asked for: a walk of hits over trials crosses it once.

    A miss lowers the evidence and a hit raises it, so from one number of trials to the next the border rises by 0 or 1.
    """

    def __init__(self, p: float, alpha: float, device: torch.device | None = None) -> None:
        self.p = p
        self.alpha = alpha
        self._hits = torch.ones(1, dtype=torch.int64, device=device)

    def at(self, trials: Tensor) -> Tensor:
        """The border at some numbers of trials: [R] int64."""
        last = int(trials.max()) if len(trials) else 0
        while len(self._hits) <= last:
            steps = torch.arange(1, _BLOCK + 1, device=self._hits.device)
            least = self._hits[-1]
            found = fewest_hits(len(self._hits) - 1 + steps, self.p, self.alpha, low=least - 1, high=least + steps)
            self._hits = torch.cat((self._hits, found))
        return self._hits[trials]


def anytime_lower(hits: Tensor, trials: Tensor, alpha: float) -> Tensor:
    """Lower bound of a probability that holds at all numbers of trials at once, with confidence 1 − alpha.

    The p at which the evidence above it is 1/alpha, with the q ≤ p of one grid over [½, 1] left out: their share is lost, and
    in return the evidence falls as p grows, so that the bound is one number.

    Args:
        hits, trials: [R] int64.
        alpha: in (0, 1).

    Returns:
        [R] float64, at least ½: less is not looked for.
    """
    grid = _angles(torch.tensor(pi / 4, dtype=torch.float64, device=hits.device))
    low = torch.full(hits.shape, 0.5, dtype=torch.float64, device=hits.device)
    high = (hits / trials.double()).clamp(min=0.5)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        proved = _log_mixture(hits, trials, grid, middle) >= -log(alpha)
        low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
    return low


def _angles(least: Tensor) -> Tensor:
    """512 probabilities, the middles of equal steps of angle from `least` to π/2."""
    steps = (torch.arange(_GRID, dtype=torch.float64, device=least.device) + 0.5) / _GRID
    return (least + (pi / 2 - least) * steps).sin().square()


def _log_mixture(hits: Tensor, trials: Tensor, grid: Tensor, p: Tensor) -> Tensor:
    p = p.expand(hits.shape)[:, None]
    ratio = hits[:, None] * (grid / p).log() + (trials - hits)[:, None] * ((1 - grid) / (1 - p)).log()
    return torch.where(grid > p, ratio, -torch.inf).logsumexp(1) - log(_GRID)
