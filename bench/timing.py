"""Timing two or more ways to do the same thing: interleaved in one run, so that a slow moment of the machine hits all."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Ratio:
    """What one case takes over what another takes, round by round, so that a slow minute of the machine falls out.

    Attributes:
        median: of the rounds' ratios.
        interval: two of these ratios, which hold their distribution's median between them with the probability that `coverage`
            gives, whatever the distribution: at least 0.9 from five rounds on.
    """

    median: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        seconds: of each round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        if len(self.seconds) == 1:
            return self.seconds * 2
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def over(self, other: "Timing", scale: float = 1.0) -> Ratio:
        """These seconds over another case's of the same rounds, times `scale`."""
        ratios = sorted(scale * own / their for own, their in zip(self.seconds, other.seconds, strict=True))
        skipped = skipped_at_each_end(len(ratios))
        return Ratio(statistics.median(ratios), (ratios[skipped], ratios[-1 - skipped]))


def skipped_at_each_end(rounds: int) -> int:
    """Of the sorted figures of so many rounds, those outside an interval that holds the median with probability 0.9 or more."""
    return max((skipped for skipped in range(rounds // 2) if coverage(rounds, skipped) >= 0.9), default=0)


def coverage(rounds: int, skipped: int = 0) -> float:
    """The probability that the median lies between two order statistics: that more than `skipped` figures lie on each side."""
    return 1 - 2 * sum(comb(rounds, below) for below in range(skipped + 1)) / 2.0**rounds


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int = 5, warmup: int = 1, settle: bool = False
) -> dict[str, Timing]:
    """Time every case once a round, in turn.

    Args:
        cases: what to call, by name.
        rounds: how often each is timed.
        warmup: rounds before that are not counted.
        settle: call each case once more, uncounted, right before it is timed: for cases that leave the process slower for a
            while, as one does that forks, since every page that its parent then writes to costs a fault.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warmup + rounds):
        for name, case in cases.items():
            if settle:
                case()
            started = time.perf_counter()
            case()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_growth(case: Callable[[], object]) -> int | None:
    """Bytes by which the process's peak memory rises over where it stands while `case` runs; None where Linux's counters
    are not to be had."""
    try:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # else what earlier calls freed is used again and hides the growth
        _CLEAR.write_text("5")  # resets the peak to what is in use now
        before = _kilobytes("VmRSS")
        case()
        return 1024 * (_kilobytes("VmHWM") - before)
    except OSError:
        return None


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
