"""The application that the commands register with, and where they print."""

import itertools
import time
from pathlib import Path

import typer
from rich.console import Console

app = typer.Typer(
    help="Attacks on stochastic pre-processing defenses of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
)
console = Console()


def new_directory() -> Path:
    """A directory under runs/ that is not there yet, named by the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = itertools.chain((stamp,), (f"{stamp}-{number}" for number in itertools.count(2)))
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())
