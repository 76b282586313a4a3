"""What runs will cost, from a measured probe: seconds and memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from cannonade.chunking import bytes_per_row, resolve_chunk
from cannonade.draws import Draws, Phase
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.recipe import samples_of

_CPU_ROWS = 16  # of a probe; more bring no speed there


@dataclass(frozen=True)
class Estimate:
    """The cost of runs in which every image is attacked and no vote stops early: the most that they may take.

    Attributes:
        images: that will be evaluated.
        gradients, forwards: that these take; the forwards of the gradients are among the forwards.
        seconds: that those take at the speed of the probe.
        bytes: memory at its peak: the device's, or on a CPU the process's.
    """

    images: int
    gradients: int
    forwards: int
    seconds: float
    bytes: int

    @property
    def seconds_per_image(self) -> float:
        """Of each image."""
        return self.seconds / max(1, self.images)


def estimate(plans: Sequence[Plan], done: Sequence[int]) -> Estimate:
    """Probe each defense once, with one forward pass and one gradient after a warm-up, and multiply.

    Args:
        plans: of one classifier and data set, at least one.
        done: images of each plan that are finished.
    """
    speeds: dict[str, tuple[float, float]] = {}
    images = gradients = forwards = memory = 0
    seconds = 0.0
    for plan, finished in zip(plans, done, strict=True):
        left = len(plan.source) - finished
        share = left / len(plan.source)
        photos = _photos(plan)
        rows = min(plan.batch, len(plan.source)) * max(plan.votes, samples_of(plan.attack))
        chunk = resolve_chunk(plan.chunk, plan.defended, photos, rows)
        defense = str(plan.defended.defense)
        if defense not in speeds:
            speeds[defense] = _speeds(plan, photos, chunk)
            memory = max(memory, _memory(plan, photos, chunk))
        forward, gradient = speeds[defense]
        own_gradients, own_forwards = plan.expected_gradients() * share, plan.expected_forwards() * share
        seconds += (own_forwards - own_gradients) * forward + own_gradients * gradient
        images, gradients, forwards = images + left, gradients + round(own_gradients), forwards + round(own_forwards)
    return Estimate(images, gradients, forwards, seconds, memory)


def _photos(plan: Plan) -> Tensor:
    """The first images of a run, as many as a probe looks at."""
    items = plan.source.items[: min(plan.batch, _CPU_ROWS)]
    return plan.source.load(items, plan.defended.classifier.input_size).to(plan.device)


def _rows(plan: Plan, photos: Tensor, chunk: int) -> Tensor:
    rows = chunk if plan.device.type == "cuda" else min(chunk, _CPU_ROWS)
    return photos[torch.arange(rows, device=photos.device) % len(photos)]


def _speeds(plan: Plan, photos: Tensor, chunk: int) -> tuple[float, float]:
    """Seconds of a forward and of a gradient, of one row."""
    rows = _rows(plan, photos, chunk)
    ids = torch.arange(len(rows))
    draws = Draws(seed=plan.defended.seed, phase=Phase.SELECTION, images=ids, queries=torch.zeros_like(ids))

    def forward() -> None:
        with torch.no_grad():
            plan.defended.logits(rows, draws)

    def gradient() -> None:
        point = rows.clone().requires_grad_()
        torch.autograd.grad(plan.defended.logits(point, draws).sum(), point)

    return _timed(forward, plan.device) / len(rows), _timed(gradient, plan.device) / len(rows)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of the second time."""
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return seconds


def _memory(plan: Plan, photos: Tensor, chunk: int) -> int:
    if plan.device.type == "cuda":
        return torch.cuda.max_memory_allocated(plan.device)  # the probe took as many rows as a pass of the run
    return int(psutil.Process().memory_info().rss) + chunk * bytes_per_row(plan.defended, photos)
