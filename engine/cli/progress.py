"""Runs on the terminal: their progress, and the table at their end."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cannonade.cli.app import console

if TYPE_CHECKING:
    from cannonade.evaluation.plan import Plan
    from cannonade.evaluation.run import Mode
    from cannonade.evaluation.shared_votes import SharedVotes


_INTERVAL = 10.0  # seconds between lines of a log


@dataclass(frozen=True)
class Limits:
    """When to stop, after the batch that is under way.

    Attributes:
        seconds: that this process may take.
        gradients: that the run, or all runs of a grid, may take, those of earlier processes included.
    """

    seconds: float | None = None
    gradients: int | None = None


class RunOne(Protocol):
    """Runs one of a command's plans."""

    def __call__(self, name: str, plan: "Plan", directory: Path, shared: "SharedVotes | None" = None) -> dict[str, Any]:
        """Run a plan into a directory, showing its progress; returns its summary."""


@contextmanager
def running(
    out: Path, mode: "Mode" = "new", limits: Limits | None = None, shard: tuple[int, int] = (0, 1)
) -> Iterator[RunOne]:
    """Take the runs of one command, whose limits and interrupts are those of them all; yields what runs one of them.

    Args:
        out: the directory to resume them with.
        mode: of each run.
        limits: when to stop.
        shard: (i, n), the part of each run's batches that is to be done.

    Raises:
        typer.Exit: with status 130 where the user interrupted a run, 3 where a limit did; it can go on later.
    """
    from cannonade.evaluation.run import run

    began, spent = time.monotonic(), 0
    limits = limits or Limits()
    with interruptible(_say) as interrupted:
        halted = False

        def stop(so_far: dict[str, Any]) -> bool:
            nonlocal halted
            late = limits.seconds is not None and time.monotonic() - began >= limits.seconds
            over = limits.gradients is not None and spent + so_far["gradients"] >= limits.gradients
            halted = late or over or interrupted()
            return halted

        def run_one(name: str, plan: "Plan", directory: Path, shared: "SharedVotes | None" = None) -> dict[str, Any]:
            nonlocal spent
            total = sum(len(batch) for batch in plan.batches[shard[0] :: shard[1]])
            with _shown(name, plan, total) as (finished, notice):
                summary = run(
                    plan, directory, finished, mode=mode, shard=shard, stop=stop, notice=notice, shared=shared
                )
            if halted:
                _leave(summary["images"], total, out, interrupted())
            spent += summary["gradients"]
            return summary

        yield run_one


def say_estimate(plans: "Iterable[tuple[Plan, Path]]") -> None:
    """Print what runs will cost, from a measured probe, to whoever watches their progress.

    Args:
        plans: with the directory of each, of one classifier and data set.
    """
    from cannonade.evaluation.estimate import estimate
    from cannonade.evaluation.run_directory import RunDirectory

    if _audience() == "nobody":
        return
    open_ = [(plan, RunDirectory(path).count_images()) for plan, path in plans]
    cost = estimate([plan for plan, _ in open_], [done for _, done in open_])
    if cost.images:
        _say(
            f"at most {cost.gradients:,} gradients and {cost.forwards - cost.gradients:,} other forwards, about "
            f"{_clock(cost.seconds)} ({cost.seconds_per_image:.3g} s an image), {cost.bytes / 1e9:.1f} GB of memory"
        )


Finished = Callable[[int, dict[str, Any]], None]
Notice = Callable[[str], None]


@contextmanager
def _shown(name: str, plan: "Plan", total: int) -> Iterator[tuple[Finished, Notice]]:
    """Show a run's progress to whoever watches; yields what is told of finished batches and of damage."""
    audience = _audience()
    if audience == "terminal":
        with _bar(name, plan, total) as (finished, notice):
            yield _confirming(finished, notice), notice
    elif audience == "log":
        yield _confirming(_lines(name, total), _say), _say
    else:
        yield lambda images, summary: None, _say


def _confirming(finished: Finished, notice: Notice) -> Finished:
    """Also say after the first batch how long an image really takes."""
    began, first = time.monotonic(), True

    def and_say(images: int, summary: dict[str, Any]) -> None:
        nonlocal first
        if first:
            took = time.monotonic() - began
            share = summary["seconds"] / images
            notice(f"first batch after {took:.1f} s, {share:.3g} s an image")
        first = False
        finished(images, summary)

    return and_say


def _audience() -> str:
    """Who watches standard output: a terminal, a log, which is a file, or nobody, such as a pipe's other end."""
    if console.is_terminal:
        return "terminal"
    try:
        regular = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return "nobody"
    return "log" if regular else "nobody"


def _lines(name: str, total: int) -> Finished:
    """A plain line after the first batch and the last, and at most every `_INTERVAL` seconds between them."""
    first: tuple[float, int] | None = None  # when the first batch was done, and the images that were then
    told = -_INTERVAL

    def finished(images: int, summary: dict[str, Any]) -> None:
        nonlocal first, told
        now = time.monotonic()
        began, before = first = first or (now, images)
        if now - told < _INTERVAL and images < total:
            return
        told = now
        left = "" if images == before else f", {_clock((now - began) * (total - images) / (images - before))} left"
        rates = f"{summary['gradients'] / max(summary['seconds'], 1e-9):.1f} gradients/s"
        _say(f"{name}: {images}/{total} images, success {percent(summary['success_rate'])}, {rates}{left}")

    return finished


@contextmanager
def _bar(name: str, plan: "Plan", total: int) -> Iterator[tuple[Finished, Notice]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[images]}/{task.fields[total_images]}"),
        TextColumn("success {task.fields[success]}  {task.fields[rate]}  left"),
        TimeRemainingColumn(),
    )
    classifier, share = plan.defended.classifier, total / len(plan.source)
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        task = progress.add_task(
            name, total=plan.expected_forwards() * share, images=0, total_images=total, success="…", rate=""
        )
        start = classifier.forwards
        # Batches are long: the bar follows the images through the classifier, not the batches.
        hook = classifier.register_forward_hook(lambda *_: progress.update(task, completed=classifier.forwards - start))

        def finished(images: int, summary: dict[str, Any]) -> None:
            expected = plan.expected_forwards(summary["attacked"] / images) * share
            speed = f"{summary['forwards'] / max(summary['seconds'], 1e-9):.0f} forwards/s"
            progress.update(task, images=images, success=percent(summary["success_rate"]), total=expected, rate=speed)

        try:
            yield finished, progress.console.print
        finally:
            hook.remove()
        progress.update(task, completed=1, total=1)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """A duration for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _leave(images: int, total: int, out: Path, asked: bool) -> None:
    import typer

    why = "interrupted" if asked else "a limit was reached"
    _say(f"{why}: stopped after {images} of {total} images; the same command with --out {out} --resume goes on")
    raise typer.Exit(130 if asked else 3)


@contextmanager
def interruptible(notice: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Take the first interrupt as a request to stop after the batch, which the function yielded tells; the second ends all."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        notice("finishing this batch; interrupt again to end at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_table(rows: Iterable[tuple[str, dict[str, Any]]], what: str = "defense") -> None:
    """Print the summaries of runs by the name of what they were of, and what in them calls for caution."""
    from rich.markup import escape
    from rich.table import Table

    rows = [(escape(name), summary) for name, summary in rows]
    table = Table(box=None, pad_edge=False)
    table.add_column(what, overflow="fold")
    for heading in ("attacked", "benign", "success [95 %]", "null", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, summary in rows:
        bounds = summary["success_rate_ci95"]
        interval = "" if bounds is None else f" [{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}]"
        table.add_row(
            name,
            f"{summary['attacked']}/{summary['images']}",
            percent(summary["benign_accuracy"]),
            percent(summary["success_rate"]) + interval,
            percent(summary["null_success_rate"]),
            f"{summary['seconds']:.1f}",
        )
    console.print(table)
    for name, summary in rows:
        if same := summary["targets_equal_to_label"]:
            console.print(f"note: {name}: {same} images were not attacked, because their target is their label")
        for kind in ("nonfinite", "zero"):
            if summary[f"{kind}_gradient_images"]:
                console.print(f"warning: {name}: {kind} gradients on {summary[f'{kind}_gradient_images']} images")


def percent(share: float | None) -> str:
    """A share for people; a dash where there is none."""
    return "—" if share is None else f"{100 * share:.1f} %"
