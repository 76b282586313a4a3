"""`cannonade bench compare`: two files of one bench."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import bench


@bench.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of a bench, made with --out.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same bench.")],
) -> None:
    """Two files of one bench, figure by figure, with what differs in hardware, versions and settings."""
    from rich.markup import escape
    from rich.table import Table

    from cannonade.bench.compare import compare as compare_files

    found = compare_files(first, second)
    table = Table("row", "figure", "first", "second", "second / first", box=None)
    for change in found.changes:
        values = f"{change.first:.4g}", f"{change.second:.4g}", f"{change.ratio:.3f}"
        table.add_row(escape(change.row), escape(change.figure), *values)
    console.print(table)
    for name, there, here in found.context:
        console.print(f"{name}: {there} and {here}", highlight=False, markup=False, soft_wrap=True)
    for words, rows in (("only in the first", found.missing), ("only in the second", found.new)):
        for row in rows:
            console.print(f"{words}: {row}", highlight=False, markup=False, soft_wrap=True)
