"""`cannonade bench scaling`: how the cost of defended gradients and predictions grows, along one axis at a time.

Everything but the axis stays at its setting. The points of an axis are timed in one run and in turn, for each number of
threads. What was computed is checked before anything is timed.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT, Estimate
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import LOSSES
from cannonade.bench.subjects import photos, random_network
from cannonade.bench.timing import Timing, interleaved, peak_growth
from cannonade.chunking import Chunk, resolve_chunk
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_transform
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import Transform
from cannonade.voting import Votes, majority_vote

_AGREEMENT = 1e-3  # of the largest gradient, between one pass and several: the network's own rounding


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        points: its values by default.
        variable: what time is a linear function of, in words.
        power: of the value, in the variable.
        measured: "gradient" of EOT, or "vote".
    """

    points: tuple[int, ...]
    variable: str
    power: int = 1
    measured: str = "gradient"

    def natural(self, value: int) -> float:
        """The value in the variable."""
        return float(value**self.power)


# Each is named by the field of `Settings` that it varies.
AXES: dict[str, Axis] = {
    "samples": Axis((1, 2, 4, 8, 16, 32, 64, 128, 256), "m, draws of a gradient"),
    "votes": Axis((1, 2, 5, 10, 20, 50, 100, 200, 500), "n, predictions of a vote", measured="vote"),
    "side": Axis((32, 64, 128, 224, 320, 448), "pixels of an image", power=2),
    "batch": Axis((1, 2, 4, 8, 16, 32, 64), "images of a batch"),
    "k": Axis((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "κ, transforms of an image"),
    "classes": Axis((2, 10, 100, 1_000, 10_000), "classes"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the axes cross.

    Attributes:
        model: with random weights, on all axes but `side`.
        side_model: on that one; it must take images of any side.
        defense: on all axes but `k`.
        program: on that one, with its own k: bart, which has ten groups to draw from, or bart_gao, which has six transforms.
        data: where the images are from.
        samples: m.
        votes: n.
        side: of the images.
        batch: images.
        k: of the program.
        classes: logits.
        chunk: rows of one pass; "auto" is resolved before the clock starts, as an attack does before its first step.
    """

    model: str = "cifar_resnet20"
    side_model: str = "resnet18"
    defense: str = "rotation(degrees=90)"
    program: str = "bart"
    data: str = "samples"
    samples: int = 1
    votes: int = 1
    side: int = 32
    batch: int = 4
    k: int = 1
    classes: int = 10
    chunk: Chunk = "auto"

    def __post_init__(self) -> None:
        for name in AXES:
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    def at(self, axis: str, value: int) -> "Settings":
        """The settings of a point of an axis."""
        changes: dict[str, Any] = {axis: value} | ({"model": self.side_model} if axis == "side" else {})
        return replace(self, **changes)


@dataclass(frozen=True)
class Point:
    """One value of an axis.

    Attributes:
        axis: its name.
        value: on it.
        threads: of PyTorch and of native code.
        milliseconds: of the whole gradient or vote, all images of the batch together: the median of the rounds.
        quartiles: the first and the third.
        memory: MiB by which the process's peak grows; None where Linux's counters are not to be had.
    """

    axis: str
    value: int
    threads: int
    milliseconds: float
    quartiles: tuple[float, float]
    memory: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Line:
    """Least squares through the points of an axis: milliseconds = intercept + slope · variable.

    Attributes:
        axis: its name.
        threads: of these points.
        slope: milliseconds for one more of the variable.
        intercept: milliseconds.
        r_squared: the share of the variance that the line explains.
    """

    axis: str
    threads: int
    slope: float
    intercept: float
    r_squared: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    axes: Mapping[str, Sequence[int]], settings: Settings, *, threads: Sequence[int] = (1, 2), rounds: int = 5
) -> Iterator[tuple[list[Point], list[Line]]]:
    """Check and time axes, one after the other.

    Args:
        axes: the points of each.
        settings: what stays.
        threads: numbers of threads.
        rounds: how often each point is timed.

    Yields:
        The points of an axis and a line for each number of threads.

    Raises:
        InputError: an axis is unknown or has fewer than two points, numbers are below 1, or what is to be timed is wrong.
    """
    for name, values in axes.items():
        if name not in AXES:
            raise InputError(f"an axis is one of {', '.join(AXES)}, got {name!r}")
        if len(set(values)) < 2 or len(set(values)) < len(values):
            raise InputError(f"{name} must have at least two points, all different, got {list(values)}")
    if rounds < 1 or not threads or min(threads) < 1:
        raise InputError(f"rounds and threads must be at least 1, got {rounds} and {list(threads)}")
    for name, values in axes.items():
        points = _measure(name, values, settings, threads, rounds)
        yield points, [fit(name, [point for point in points if point.threads == number]) for number in threads]


def fit(axis: str, points: Sequence[Point]) -> Line:
    """The line through the medians of points that have their threads in common."""
    variable = [AXES[axis].natural(point.value) for point in points]
    times = [point.milliseconds for point in points]
    slope, intercept = statistics.linear_regression(variable, times)
    mean = statistics.fmean(times)
    left = sum((time - intercept - slope * x) ** 2 for x, time in zip(variable, times, strict=True))
    whole = sum((time - mean) ** 2 for time in times)
    return Line(axis, points[0].threads, slope, intercept, 1 - left / whole if whole else 1.0)


def _measure(axis: str, values: Sequence[int], settings: Settings, threads: Sequence[int], rounds: int) -> list[Point]:
    works = {value: _work(axis, settings.at(axis, value)) for value in values}
    points = []
    with _threads_put_back():
        for number in threads:  # not in turn: on a busy machine points of one thread then took seconds
            torch.set_num_threads(number)
            if axis == "samples":
                _check_chunks(replace(settings, samples=min(value for value in values if value > 1)))
            for value, work in works.items():
                _check(settings.at(axis, value), work())
            memory = {value: peak_growth(work) for value, work in works.items()}
            timed = interleaved({str(value): work for value, work in works.items()}, rounds, warmup=0)
            points += [_point(axis, value, number, timed[str(value)], memory[value]) for value in values]
    return points


def _point(axis: str, value: int, threads: int, timing: Timing, growth: int | None) -> Point:
    low, high = timing.quartiles
    memory = None if growth is None else growth / 2**20
    return Point(axis, value, threads, 1000 * timing.median, (1000 * low, 1000 * high), memory)


def _work(axis: str, settings: Settings) -> Callable[[], Estimate | Votes]:
    """What is timed at a point."""
    if AXES[axis].measured == "vote":
        return _vote(settings)
    return _gradient(settings, _with_k(settings.program, settings.k) if axis == "k" else None)


def _vote(settings: Settings) -> Callable[[], Votes]:
    defended, images = _subject(settings, None)
    rows = resolve_chunk(settings.chunk, defended, images, len(images) * settings.votes)
    return lambda: majority_vote(defended, images, settings.votes, chunk=rows)


def _gradient(settings: Settings, program: Transform | None) -> Callable[[], Estimate]:
    defended, images = _subject(settings, program)
    eot = EOT(samples=settings.samples, chunk=settings.chunk).resolved(defended, images)
    with torch.no_grad():
        goal = Untargeted(defended.classifier(images).argmax(1))
    ids = torch.arange(len(images))
    draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    return lambda: eot.estimate(defended, images, goal, LOSSES["cross_entropy"], draws)


def _subject(settings: Settings, program: Transform | None) -> tuple[DefendedClassifier, Tensor]:
    defense = program or build_transform(settings.defense)
    defended = DefendedClassifier(_classifier(settings.model, settings.classes), defense)
    return defended, photos(settings.data, settings.batch, settings.side)


@cache
def _classifier(model: str, classes: int) -> Classifier:
    source = random_network(model, classes)
    return Classifier(source.module, mean=source.mean, std=source.std, input_size=source.input_size)


def _with_k(program: str, k: int) -> Transform:
    defense = build_transform(program)
    if "k" not in {field.name for field in fields(defense)}:
        raise InputError(f"the program must be a defense with a k, such as bart or bart_gao, got {program!r}")
    changes: dict[str, Any] = {"k": k}
    return replace(defense, **changes)


def _check(settings: Settings, result: Estimate | Votes) -> None:
    """Raises InputError where a result is not what its point asks for."""
    if isinstance(result, Votes):
        if result.counts.shape != (settings.batch, settings.classes) or (result.used != settings.votes).any():
            raise InputError(
                f"a vote must count {settings.votes} predictions of {settings.batch} images over {settings.classes} classes, "
                f"got {list(result.counts.shape)} counts that add up to {result.used.tolist()}"
            )
        return
    gradient, expected = result.gradient, (settings.batch, 3, settings.side, settings.side)
    if gradient.shape != expected or not gradient.isfinite().all() or not gradient.any():
        raise InputError(
            f"a gradient must have shape {list(expected)}, be finite and not zero everywhere; that of {settings.model} "
            f"behind the defense has shape {list(gradient.shape)} and values up to {float(gradient.abs().max()):g}"
        )


def _check_chunks(settings: Settings) -> None:
    """Raises InputError where passes of the batch's size give another gradient than one pass."""
    rows = settings.batch * settings.samples
    whole, parts = (_gradient(replace(settings, chunk=size), None)().gradient for size in (rows, settings.batch))
    apart = float((whole - parts).abs().max() / whole.abs().max())
    if not apart <= _AGREEMENT:
        raise InputError(
            f"a gradient must not depend on the rows of a pass, but those of one and of {settings.samples} passes are "
            f"{apart:.1e} of the largest apart"
        )


@contextmanager
def _threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parse_points(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Points by axis, from texts such as "samples=1,2,4".

    Raises:
        InputError: a text is none such.
    """
    found = {}
    for text in texts:
        name, _, values = text.partition("=")
        parts = [part.strip() for part in values.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise InputError(f"points must be an axis and whole numbers, such as samples=1,2,4, got {text!r}")
        found[name.strip()] = tuple(map(int, parts))
    return found
