"""`cannonade report`: a page about finished runs; `cannonade merge`: the parts of one run put together."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console, new_directory
from cannonade.cli.progress import print_table


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for report.html; that of a single run, else a new one under runs/.")
    ] = None,
) -> None:
    """Write a page about one run, or compare several: side by side, and image by image where the data are the same."""
    from cannonade.evaluation.report import write_report
    from cannonade.evaluation.run_directory import RunDirectory

    rows = [(path.name, RunDirectory(path).read_json("summary.json")) for path in runs]
    place = out or (runs[0] if len(runs) == 1 else new_directory())
    place.mkdir(parents=True, exist_ok=True)
    page = write_report(runs, place)
    print_table(rows, "run")
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Directories of parts of one run.")],
    out: Annotated[Path, typer.Option(help="New run directory.")],
) -> None:
    """Put the parts of a run, made with --shard on machines that share no directory, into one run directory."""
    from cannonade.evaluation.merge import merge as merge_parts
    from cannonade.evaluation.report import write_report

    summary = merge_parts(parts, out)
    page = write_report([out], out)
    print_table([(out.name, summary)], "run")
    console.print(f"run directory: {out}\nreport: {page}", highlight=False, soft_wrap=True)
