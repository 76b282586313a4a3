"""Timing two or more ways to do the same thing: interleaved in one run, so that a slow moment of the machine hits all."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median: of the rounds.
        quartiles: the first and the third.
    """

    median: float
    quartiles: tuple[float, float]


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
    return {name: summary(values) for name, values in seconds.items()}


def summary(values: list[float]) -> Timing:
    """Median and quartiles of the seconds of several calls."""
    if len(values) == 1:
        return Timing(values[0], (values[0], values[0]))
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(statistics.median(values), (first, third))


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
