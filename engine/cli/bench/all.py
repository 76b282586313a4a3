"""`cannonade bench all`: the record of speed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import bench

if TYPE_CHECKING:
    from cannonade.bench.record import Outcome


@bench.command("all")
def run_all(
    out: Annotated[Path, typer.Option(help="Folder for the benches' files and record.md.")],
    only: Annotated[list[str] | None, typer.Option(help="A bench; several for several. All by default.")] = None,
    quick: Annotated[bool, typer.Option(help="In the shortest form: to see that everything works.")] = False,
) -> None:
    """The benches that need no data of yours, one after the other, and their tables as one page of Markdown.

    Goes on after a bench that failed, and ends with status 1 then. The comparisons need the packages of cannonade[bench] and
    those of tests/peers.txt.
    """
    from cannonade.bench import record

    outcomes = record.run_all(record.choose(only or ()), out, quick=quick, progress=_say)
    console.print(str(out / "record.md"), highlight=False, soft_wrap=True)
    failed = [each.bench.name for each in outcomes if each.status]
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red", highlight=False)
        raise typer.Exit(1)


def _say(outcome: "Outcome") -> None:
    verdict = f"failed with status {outcome.status}: {outcome.said}" if outcome.status else "done"
    console.print(
        f"{outcome.bench.name}, {outcome.seconds:.0f} s: {verdict}", markup=False, highlight=False, soft_wrap=True
    )
