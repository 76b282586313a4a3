"""A run on the terminal: its progress, and the table at its end."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cannonade.cli.app import console

if TYPE_CHECKING:
    from cannonade.evaluation.run import Mode, Plan


@dataclass(frozen=True)
class Limits:
    """When to stop, after the batch that is under way.

    Attributes:
        seconds: that this process may take.
        gradients: that the run may take, those of earlier processes included.
    """

    seconds: float | None = None
    gradients: int | None = None


def run_with_progress(
    plan: "Plan", directory: Path, mode: "Mode" = "new", limits: Limits | None = None
) -> tuple[str, dict[str, Any]]:
    """Run a plan into a directory; returns the defense's call and the summary.

    Raises:
        typer.Exit: with status 130 where the user interrupted the run, 3 where a limit did; it can go on later.
    """
    import typer

    limits = limits or Limits()
    began = time.monotonic()
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cannonade.evaluation.run import run

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[images]}/{task.fields[total_images]}"),
        TextColumn("success {task.fields[success]}  left"),
        TimeRemainingColumn(),
    )
    name, classifier = plan.calls["defense"], plan.defended.classifier
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

        with interruptible(notice) as interrupted:

            def stop(so_far: dict[str, Any]) -> bool:
                late = limits.seconds is not None and time.monotonic() - began >= limits.seconds
                spent = limits.gradients is not None and so_far["gradients"] >= limits.gradients
                return late or spent or interrupted()

            summary = run(plan, directory, finished, mode=mode, stop=stop, notice=notice)
            asked = interrupted()
        hook.remove()
        progress.update(task, completed=1, total=1)
    if summary["images"] < len(plan.source):
        why = "interrupted" if asked else "a limit was reached"
        done = f"stopped after {summary['images']} of {len(plan.source)} images"
        text = f"{why}: {done}; the same command with --out {directory} --resume goes on"
        console.print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(130 if asked else 3)
    return name, summary


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


def print_table(rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Print the summaries of runs, and what in them calls for caution."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("defense", overflow="fold")
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
