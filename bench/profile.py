"""`cannonade bench profile`: where the time of a defended gradient goes, by PyTorch's profiler.

The engine names the parts of a pass (`cannonade.spans`). Backward is told apart by sequence numbers: autograd numbers its nodes
as forward makes them, so a node belongs to the part whose operation made it. What lies in no part is the rest, so that the
parts add up to the time of the whole.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from cannonade.bench.timing import Timing, interleaved
from cannonade.spans import PREFIX

PARTS = (
    "draws", "schedule", "transforms forward", "transforms backward", "model forward", "model backward", "reduction", "rest",
)  # fmt: skip

_WHOLE = PREFIX + "whole"
_NODE = "autograd::engine::evaluate_function"
_FORWARD = {"transforms": "transforms forward", "model": "model forward"}
_BACKWARD = {"transforms forward": "transforms backward", "model forward": "model backward"}


@dataclass(frozen=True)
class Share:
    """One part of a gradient.

    Attributes:
        part: "draws", sampling of parameters, though noise that is drawn as it is added counts as transforms; "schedule",
            laying rows out, planning programs, and the copies that bring together what waits for one transform; "transforms"
            and "model", forward and backward; "reduction", losses and sums over draws; "rest", which is what lies between
            them, in Python and in autograd's engine.
        milliseconds: of one gradient, in the round whose whole is the median, so that the parts add up to `Profile.profiled`.
        share: of that.
        quartiles: milliseconds over all rounds, the first and the third.
    """

    part: str
    milliseconds: float
    share: float
    quartiles: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Profile:
    """A gradient and its parts, in milliseconds.

    Attributes:
        profiled: of one gradient, the median over the rounds with the profiler, the lower one of an even number.
        plain, plain_quartiles: without it; what the profiler costs is the difference.
        shares: one for each of `PARTS`.
    """

    profiled: float
    plain: float
    plain_quartiles: tuple[float, float]
    shares: tuple[Share, ...]


def profile(work: Callable[[], object], gradients: int, rounds: int = 5) -> Profile:
    """Time a call with and without the profiler, in turn, and split it into parts. On a CPU, and in this thread.

    Args:
        work: computes gradients through the engine, as `EOT.estimate` does.
        gradients: that a call computes, by whose number times are divided.
        rounds: how often.
    """
    splits: list[dict[str, float]] = []

    def watched() -> None:
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler, record_function(_WHOLE):
            work()
        splits.append(split(profiler.events() or ()))

    plain = interleaved({"plain": work, "profiled": watched}, rounds)["plain"]
    per_gradient = 1e3 / gradients
    kept = sorted(splits[-rounds:], key=_whole)
    middle = kept[(rounds - 1) // 2]
    whole = _whole(middle)
    shares = []
    for part in PARTS:
        low, high = Timing(tuple(found[part] for found in kept)).quartiles
        own = middle[part]
        shares.append(Share(part, own * per_gradient, own / whole, (low * per_gradient, high * per_gradient)))
    return Profile(whole * per_gradient, *_milliseconds(plain, per_gradient), tuple(shares))


def _whole(found: Mapping[str, float]) -> float:
    return sum(found.values())


def _milliseconds(timing: Timing, scale: float) -> tuple[float, tuple[float, float]]:
    low, high = timing.quartiles
    return timing.median * scale, (low * scale, high * scale)


def split(events: Iterable[FunctionEvent]) -> dict[str, float]:
    """Seconds of each of `PARTS`, an event's time without that of other parts within it; they add up to the whole's.

    Args:
        events: of a profiler, among them the one around the whole.
    """
    ordered = sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end))
    whole = next(event for event in ordered if event.name == _WHOLE)
    seconds = dict.fromkeys((*PARTS, "backward"), 0.0)
    seconds["rest"] = _seconds(whole)
    part_of, node = {id(whole): "rest"}, "rest"
    made_by: dict[int, str] = {}
    for event in ordered:
        around = part_of.get(id(event.cpu_parent))
        if around is None:  # outside the whole, or another thread's
            continue
        part = around
        if event.name.startswith(PREFIX):
            own = event.name.removeprefix(PREFIX)
            part = _FORWARD.get(own, own)
        elif event.name.startswith(_NODE) and around == "backward":
            # What makes a node comes last of what has its number; some, as that of a view with a hook, have none.
            found = made_by.get(event.sequence_nr)
            part = node = node if found is None else _BACKWARD.get(found, found)
        elif event.sequence_nr >= 0 and not around.endswith("backward"):
            made_by[event.sequence_nr] = part
        part_of[id(event)] = part
        seconds[part] += _seconds(event)
        seconds[around] -= _seconds(event)
    seconds["rest"] += seconds.pop("backward")
    return seconds


def _seconds(event: FunctionEvent) -> float:
    return float(event.time_range.end - event.time_range.start) / 1e6
