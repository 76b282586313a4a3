"""The `reproduce` command, and what its commands share: options, and how they print."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console

reproduce = typer.Typer(help="The paper's claims, each as a command.", no_args_is_help=True)
app.add_typer(reproduce, name="reproduce")

Model = Annotated[str, typer.Option(help="Classifier; see evaluate.")]
Data = Annotated[str, typer.Option(help="Images; see evaluate.")]
Out = Annotated[Path, typer.Option(help="Directory of the runs, with the study's JSON and SVG.")]
Scale = Annotated[str, typer.Option(help="full, the paper's settings; or small, which says what it changed.")]
Eps = Annotated[str, typer.Option(help="Radius in L∞, such as 4/255; the paper's is 8/255.")]
Target = Annotated[str, typer.Option(help="Of targeted attacks: a class, random or least_likely.")]
Limit = Annotated[int | None, typer.Option(help="Images, spread evenly over the data; the scale's own by default.")]
Votes = Annotated[int | None, typer.Option(help="n, of a vote; the scale's own by default.")]
Stop = Annotated[str, typer.Option(help="End votes early: none, exact or sequential.")]
Batch = Annotated[int, typer.Option(help="Images of one batch.")]
Resume = Annotated[bool, typer.Option(help="Go on with what is in --out.")]


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    return "—" if share is None else f"{100 * share:.1f} %"


def interval(bounds: tuple[float, float] | None) -> str:
    """Bounds of a share as percentages."""
    return "" if bounds is None else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
