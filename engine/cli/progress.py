"""Runs on the terminal: their progress, and the table at their end."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cannonade.cli.app import console

if TYPE_CHECKING:
    from cannonade.evaluation.run import Mode, Plan
    from cannonade.evaluation.shared_votes import SharedVotes


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
        """Run a plan into a directory under a progress bar; returns its summary."""


@contextmanager
def running(out: Path, mode: "Mode" = "new", limits: Limits | None = None) -> Iterator[RunOne]:
    """Take the runs of one command, whose limits and interrupts are those of them all; yields what runs one of them.

    Args:
        out: the directory to resume them with.
        mode: of each run.
        limits: when to stop.

    Raises:
        typer.Exit: with status 130 where the user interrupted a run, 3 where a limit did; it can go on later.
    """
    began, spent = time.monotonic(), 0
    limits = limits or Limits()
    with interruptible(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)) as interrupted:

        def stop(so_far: dict[str, Any]) -> bool:
            late = limits.seconds is not None and time.monotonic() - began >= limits.seconds
            over = limits.gradients is not None and spent + so_far["gradients"] >= limits.gradients
            return late or over or interrupted()

        def run_one(name: str, plan: "Plan", directory: Path, shared: "SharedVotes | None" = None) -> dict[str, Any]:
            nonlocal spent
            summary = _run_with_progress(name, plan, directory, mode, stop, shared)
            if summary["images"] < len(plan.source):
                _leave(summary["images"], len(plan.source), out, interrupted())
            spent += summary["gradients"]
            return summary

        yield run_one


def _run_with_progress(
    name: str,
    plan: "Plan",
    directory: Path,
    mode: "Mode",
    stop: Callable[[dict[str, Any]], bool],
    shared: "SharedVotes | None",
) -> dict[str, Any]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cannonade.evaluation.run import run

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[images]}/{task.fields[total_images]}"),
        TextColumn("success {task.fields[success]}  left"),
        TimeRemainingColumn(),
    )
    classifier = plan.defended.classifier
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        task = progress.add_task(
            name, total=plan.expected_forwards(), images=0, total_images=len(plan.source), success="…"
        )
        start = classifier.forwards
        # Batches are long: the bar follows the images through the classifier, not the batches.
        hook = classifier.register_forward_hook(lambda *_: progress.update(task, completed=classifier.forwards - start))

        def finished(images: int, summary: dict[str, Any]) -> None:
            expected = plan.expected_forwards(summary["attacked"] / images)
            progress.update(task, images=images, success=percent(summary["success_rate"]), total=expected)

        def notice(text: str) -> None:
            progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

        try:
            summary = run(plan, directory, finished, mode=mode, stop=stop, notice=notice, shared=shared)
        finally:
            hook.remove()
        progress.update(task, completed=1, total=1)
    return summary


def _leave(images: int, total: int, out: Path, asked: bool) -> None:
    import typer

    why = "interrupted" if asked else "a limit was reached"
    text = f"{why}: stopped after {images} of {total} images; the same command with --out {out} --resume goes on"
    console.print(text, highlight=False, soft_wrap=True)
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
