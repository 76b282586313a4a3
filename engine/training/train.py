"""The loop of a training: steps, a validation after each epoch, checkpoints in between."""

import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cannonade.data.loader import Batch
from cannonade.errors import InputError
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.training.checkpoint import STATE, load_checkpoint, save_checkpoint, weight_bytes, write
from cannonade.training.log import Log
from cannonade.training.task import Task, hash_of
from cannonade.training.trainer import Trainer
from cannonade.training.validation import validate

FORMAT = 2  # of a training's directory


@dataclass(frozen=True)
class Rhythm:
    """How often what does not decide the numbers is done.

    Attributes:
        log_every: steps from one line of the log to the next.
        checkpoint_every: steps from one checkpoint to the next within an epoch; None for one an epoch.
    """

    log_every: int = 10
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


def train(
    task: Task,
    out: Path,
    *,
    resume: bool = False,
    rhythm: Rhythm | None = None,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train, and write a directory: `run.json`, `log.jsonl`, `validation.jsonl`, `best` and `last.safetensors`, a checkpoint.

    Order, crops, draws and dropout are functions of seed, epoch and image or step, so that a training that was killed and
    goes on ends, on a CPU, with the bits of one that was not.

    Args:
        task: what to train.
        out: the directory, new or empty; with `resume` that of a training of the same task.
        resume: go on from its last checkpoint.
        rhythm: of log and checkpoints.
        report: told what was logged.
        stop: asked after every step; true writes a checkpoint and ends the training there, to be resumed.

    Returns:
        Whether the training is finished.

    Raises:
        InputError: the directory is not to be used, something cannot be written, or the loss is not finite.
    """
    rhythm = rhythm or Rhythm()
    directory = RunDirectory(out)
    if not task.ranks.first:
        task.ranks.wait()  # the first process prepares the directory
        return _train(_Run(task, out, rhythm, None, report), resume, stop)
    with directory.writing(False, lambda _: _prepare(directory, task, resume)):
        task.ranks.wait()
        return _train(_Run(task, out, rhythm, directory, report), resume, stop)


def _train(run: "_Run", resume: bool, stop: Callable[[], bool]) -> bool:
    if resume and (run.out / STATE).is_file():
        run.restore()
    run.begin()
    try:
        return _to_the_end(run, stop)
    finally:
        run.close()


def _to_the_end(run: "_Run", stop: Callable[[], bool]) -> bool:
    """Take every step that is left; false where it was told to stop before."""
    task, trainer, every = run.task, run.trainer, run.rhythm.checkpoint_every
    while trainer.epoch < task.recipe.epochs:
        for passes in run.steps():
            trainer.take(passes)
            if trainer.step % run.rhythm.log_every == 0 or trainer.step == task.steps:
                run.log_steps()
            if trainer.step == task.steps:
                break
            stopped = task.ranks.world == 1 and stop()  # several processes would stop at different steps
            if stopped or (every and trainer.step % every == 0):
                run.save()
            if stopped:
                return False
        run.end_epoch()
        if trainer.epoch < task.recipe.epochs and task.ranks.world == 1 and stop():
            return False
    return True


class _Run:
    """A training with its directory; processes but the first write nothing."""

    def __init__(
        self,
        task: Task,
        out: Path,
        rhythm: Rhythm,
        directory: RunDirectory | None,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.task, self.out, self.rhythm, self._report = task, out, rhythm, report
        self.trainer = Trainer(task)
        self._writes = directory is not None
        self._log: Log | None = None
        self._best: float | None = None
        self._seconds: dict[str, float] = {}
        self._added = dict.fromkeys(self.trainer.sums, 0.0)
        self._restored = False
        self._since = time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint."""
        checkpoint = load_checkpoint(self.out)
        own = hash_of(self.task.configuration())
        if checkpoint.state["configuration"] != own:
            raise InputError(
                f"{self.out / STATE} must be of this configuration, it is of another: its run.json was changed"
            )
        self.trainer.restore(checkpoint)
        self._best = checkpoint.state["best"]
        self._restored = True

    def begin(self) -> None:
        """Open the log, and judge a network that knows the classes before its first step."""
        if self._writes:
            self._log = Log(self.out, self.trainer.done if self._restored else -1)
        if not self._restored and self.task.start.continued:
            self._write("epoch", {"epoch": 0, "step": 0, **self._validate()})
            self._since = time.monotonic()

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def steps(self) -> Iterator[list[Batch]]:
        """The passes of each step left in the epoch."""
        feed = self.task.feed(self.trainer.epoch, self.trainer.step)
        batches = iter(self.trainer.watch.waiting("loader", self.task.load(self.task.train, feed)))
        while passes := list(itertools.islice(batches, self.task.recipe.accumulate)):
            yield passes

    def log_steps(self) -> None:
        """Check and write what the last steps brought."""
        trainer = self.trainer
        self._count()
        added, seconds = self._added, trainer.watch.read()
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        record = {
            "epoch": trainer.epoch + 1,
            "step": trainer.done,
            "steps": trainer.task.recipe.epochs * trainer.task.steps,
            "loss": added["loss"] / added["images"],
            "accuracy": added["right"] / added["images"],
            "images_per_second": added["images"] / elapsed,
            "seconds": _rounded(seconds),
        }
        self._write("steps", record)
        self._added = dict.fromkeys(added, 0.0)

    def end_epoch(self) -> None:
        """Validate, keep the weights if they are the best, and write the epoch's checkpoint."""
        trainer, recipe = self.trainer, self.task.recipe
        self._count()
        trainer.check_finite()
        sums, seconds = trainer.sums, self._seconds
        trainer.next_epoch()
        record: dict[str, Any] = {
            "epoch": trainer.epoch,
            "step": trainer.done,
            "loss": sums["loss"] / sums["images"],
            "accuracy": sums["right"] / sums["images"],
            "images": int(sums["images"]),
            "seconds": _rounded(seconds),
        }
        if trainer.epoch % recipe.validate_every == 0 or trainer.epoch == recipe.epochs:
            found = self._validate()
            accuracy = found["validation"]["accuracy"]
            record |= found
            record["best"] = self._best is None or accuracy > self._best
            if record["best"]:
                self._best = accuracy
                self._keep("best")
        self._keep("last")
        self._write("epoch", record)
        self.save()
        self._seconds, self._since = {}, time.monotonic()

    def save(self) -> None:
        """Write a checkpoint."""
        self._count()
        self.trainer.check_finite()
        if not self._writes:
            return
        checkpoint = self.trainer.checkpoint()
        extra = {"best": self._best, "seed": self.task.recipe.seed, "configuration": hash_of(self.task.configuration())}
        name = f"step-{self.trainer.done:08d}"
        save_checkpoint(self.out, name, type(checkpoint)(checkpoint.weights, {**checkpoint.state, **extra}))

    def _count(self) -> None:
        """Take in the outcome of the last steps; raises InputError where a loss is not finite."""
        for name, value in self.trainer.count().items():
            self._added[name] += value

    def _validate(self) -> dict[str, Any]:
        """Shares of the validation images, with the time they took; the images one by one go to `validation.jsonl`."""
        started = time.monotonic()
        self.task.ranks.same_buffers(self.trainer.module)
        module = copy.deepcopy(self.trainer.module)
        module.load_state_dict(dict(self.trainer.evaluated))
        shares, records = validate(self.task, module)
        if self._writes:
            write(self.out / "validation.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
        return {"validation": asdict(shares), "validation_seconds": round(time.monotonic() - started, 3)}

    def _keep(self, name: str) -> None:
        if self._writes:
            content = weight_bytes(self.trainer.evaluated, self.task.start.card.metadata())
            write(self.out / f"{name}.safetensors", content)

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(kind, record)
            self._report({"kind": kind, **record})


def _prepare(directory: RunDirectory, task: Task, resume: bool) -> None:
    """Begin a directory, or check that it is one of this task."""
    configuration = task.configuration()
    if not (resume and directory.begun):
        directory.check_empty()
        directory.write_json("run.json", {"format": FORMAT, "kind": "training", "configuration": configuration})
        return
    header = directory.read_json("run.json")
    if header.get("kind") != "training" or header.get("format") != FORMAT:
        raise InputError(
            f"{directory.path} must hold a training of format {FORMAT} to be resumed: choose another --out"
        )
    there = header["configuration"]
    for name in (*configuration, *there):
        if there.get(name) != configuration.get(name):
            raise InputError(
                f"a training must be resumed with its own configuration, {directory.path} differs first in {name}: there "
                f"{there.get(name)!r}, here {configuration.get(name)!r}"
            )


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}
