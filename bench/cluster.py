"""A run shared by a thousand workers: what its directory must bear, by simulation with the costs of its own operations."""

import heapq
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cannonade.errors import InputError
from cannonade.evaluation.run_directory import (
    LONGEST_PATIENCE,
    PATIENCE,
    TRIES,
    Finished,
    RunDirectory,
    checksum_of,
)

_RECORD = {
    "benign_counts": {str(label): 10 for label in range(30)},
    "name": "val/n01440764/ILSVRC2012_val_00000293.JPEG",
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The evaluation, and who does it.

    Attributes:
        images: of the data set.
        gradients: k·m of each image.
        batch: images of a batch, the unit of work.
        workers: processes that share the directory.
        rate: gradients a second of one worker, an assumption.
        spread: of the workers' speeds and of batches, as the sigma of a log-normal factor.
        deaths: workers that die, at moments spread over the run.
        side: of the images, in pixels.
        latency: seconds that the file system adds to every operation.
    """

    images: int = 50_000
    gradients: int = 20_000
    batch: int = 8
    workers: int = 1_000
    rate: float = 1_000.0
    spread: float = 0.1
    deaths: int = 10
    side: int = 224
    latency: float = 0.0

    def __post_init__(self) -> None:
        for name in ("images", "gradients", "batch", "workers", "rate", "side"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.deaths < self.workers:
            raise InputError(f"deaths must be in 0 … {self.workers - 1}, of {self.workers} workers, got {self.deaths}")

    @property
    def batches(self) -> int:
        """Units of work."""
        return -(-self.images // self.batch)


@dataclass(frozen=True)
class Costs:
    """Seconds of a run directory's operations.

    Attributes:
        look: to see what is finished, where nothing is new.
        claim: to try for a batch.
        finish: to add a batch's lines, during which nobody else can.
        check: to check a batch once more at the end.
    """

    look: float
    claim: float
    finish: float
    check: float


@dataclass(frozen=True)
class Course:
    """What became of the run.

    Attributes:
        seconds: from the first worker's start to the last batch's end.
        busy: share of the living workers' time that they computed.
        claims, refused: attempts at batches, and those that another worker had.
        looks: at what is finished.
        waited: longest wait for the lock that guards the lines, in seconds.
        lock: share of the time that it was held.
        again: batches that were begun again after a death.
        files: in the directory before its end.
        bytes: of them.
        read: bytes of lines that all workers read together.
        check: seconds of the last check, by one worker, which writes the summary.
    """

    seconds: float
    busy: float
    claims: int
    refused: int
    looks: int
    waited: float
    lock: float
    again: int
    files: int
    bytes: int
    read: int
    check: float


def measure_costs(cluster: Cluster, folder: Path | None = None, repetitions: int = 30) -> Costs:
    """Time the operations of a real run directory.

    Args:
        cluster: whose batches are written.
        folder: on the file system in question; a temporary one by default.
        repetitions: of each operation; the median counts.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        directory = RunDirectory(Path(place) / "run")
        images = torch.zeros(cluster.batch, 3, cluster.side, cluster.side)
        with directory.writing(True, lambda alone: None):
            finish, claim, look = [], [], []
            for number in range(repetitions):
                records, finished = _batch(directory, cluster, number, images)
                finish.append(_seconds(partial(directory.finish_batch, finished, records)))
                directory.finished_numbers()
                look.append(_seconds(directory.finished_numbers))
                claim.append(_seconds(partial(_try, directory, number)))
            ids = [list(range(number * cluster.batch, (number + 1) * cluster.batch)) for number in range(repetitions)]
            check = _seconds(lambda: directory.read_sound(ids)) / repetitions
    return Costs(median(look), median(claim), median(finish), check)


def simulate(cluster: Cluster, costs: Costs, seed: int = 0) -> Course:
    """Play the run: every worker goes through the batches in an order of its own, skips finished ones, takes the first free."""
    chance = np.random.default_rng(seed)
    count, workers = cluster.batches, cluster.workers
    compute = cluster.batch * cluster.gradients / cluster.rate * np.exp(cluster.spread * chance.standard_normal(count))
    speed = np.exp(cluster.spread * chance.standard_normal(workers))
    death = np.full(workers, np.inf)
    span = float(compute.sum()) / workers
    death[chance.choice(workers, cluster.deaths, replace=False)] = chance.uniform(0, span, cluster.deaths)
    look, claim, hold = (cost + cluster.latency for cost in (costs.look, costs.claim, costs.finish))
    free, done, busy = np.ones(count, bool), np.zeros(count, bool), 0.0
    claims = refused = looks = again = 0
    waited = held = until = end = 0.0
    patience = np.full(workers, PATIENCE)
    queue: list[tuple[float, int, int]] = [(0.0, worker, -1) for worker in range(workers)]
    heapq.heapify(queue)
    while queue:
        now, worker, number = heapq.heappop(queue)
        if number >= 0 and not done[number]:  # its batch is computed, or it died in the middle
            if now >= death[worker]:
                free[number] = True
                again += 1
                continue
            start = max(now, until)
            waited, held, until = max(waited, start - now), held + hold, start + hold
            done[number], now, end = True, until, max(end, until)
        if done.all():
            break
        if now >= death[worker]:
            continue
        open_ = np.flatnonzero(~done)
        order = chance.permutation(open_)[:TRIES]
        found = np.flatnonzero(free[order])
        tried = int(found[0]) if len(found) else len(order)
        passed = round((tried + bool(len(found))) * count / len(open_))  # finished ones lie between them
        looks, claims, refused = looks + passed, claims + tried + bool(len(found)), refused + tried
        now += passed * look + (tried + bool(len(found))) * claim
        if not len(found):
            heapq.heappush(queue, (now + patience[worker], worker, -1))
            patience[worker] = min(2 * patience[worker], LONGEST_PATIENCE)
            continue
        taken = int(order[tried])
        free[taken], patience[worker] = False, PATIENCE
        seconds = float(compute[taken] / speed[worker])
        if now + seconds <= death[worker]:
            busy += seconds
        heapq.heappush(queue, (min(now + seconds, float(death[worker])), worker, taken))
    living = float(np.minimum(death, end).sum())
    line = len(str(_RECORD)) * cluster.batch
    return Course(
        end, busy / living, claims, refused, looks, waited, held / end, again,
        files=2 * count + 6, bytes=count * (cluster.batch * 3 * 4 * cluster.side**2 + line), read=workers * count * 300,
        check=count * (costs.check + cluster.latency),
    )  # fmt: skip


def table(courses: Iterable[tuple[Cluster, Course]]) -> str:
    """Markdown, a column for each course."""
    courses = list(courses)
    rows: list[tuple[str, Callable[[Cluster, Course], str]]] = [
        ("workers", lambda cluster, _: f"{cluster.workers:,}"),
        ("images of a batch", lambda cluster, _: str(cluster.batch)),
        ("file system adds, ms", lambda cluster, _: f"{1000 * cluster.latency:g}"),
        ("gradients", lambda cluster, _: f"{cluster.images * cluster.gradients:.2g}"),
        ("batches", lambda cluster, _: f"{cluster.batches:,}"),
        ("seconds", lambda _, course: f"{course.seconds:,.0f}"),
        ("computing", lambda _, course: f"{100 * course.busy:.1f} %"),
        ("claims (refused)", lambda _, course: f"{course.claims:,} ({course.refused:,})"),
        ("claims a second", lambda _, course: f"{course.claims / course.seconds:,.0f}"),
        ("looks", lambda _, course: f"{course.looks:,}"),
        ("lines' lock held", lambda _, course: f"{100 * course.lock:.2f} %"),
        ("longest wait for it, s", lambda _, course: f"{course.waited:.2f}"),
        ("begun again", lambda _, course: str(course.again)),
        ("files", lambda _, course: f"{course.files:,}"),
        ("GB", lambda _, course: f"{course.bytes / 1e9:.1f}"),
        ("lines read by all, GB", lambda _, course: f"{course.read / 1e9:.1f}"),
        ("last check, s", lambda _, course: f"{course.check:.0f}"),
    ]
    lines = ["| |" + " |" * len(courses), "|---|" + "---:|" * len(courses)]
    lines += [f"| {name} | " + " | ".join(cell(*course) for course in courses) + " |" for name, cell in rows]
    return "\n".join(lines)


def _batch(
    directory: RunDirectory, cluster: Cluster, number: int, images: torch.Tensor
) -> tuple[list[dict[str, object]], Finished]:
    ids = list(range(number * cluster.batch, (number + 1) * cluster.batch))
    records: list[dict[str, object]] = [{"id": image, **_RECORD} for image in ids]
    (directory.path / "adversarial").mkdir(exist_ok=True)
    sums = directory.write_tensors("adversarial", number, {"ids": torch.tensor(ids), "images": images})
    return records, Finished(number, ids, sums, checksum_of(records), 1, 1.0, {})


def _try(directory: RunDirectory, number: int) -> None:
    with directory.claim(number):
        pass


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
