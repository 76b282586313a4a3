"""The group that the benches register with, and what they share."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from cannonade.cli.app import app
from cannonade.errors import InputError

bench = typer.Typer(help="Speed, memory and agreement with what the engine is compared to.", no_args_is_help=True)
app.add_typer(bench, name="bench")

# What several benches take alike.
Model = Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")]
Networks = Annotated[list[str] | None, typer.Option(help="A network, with random weights; several for several.")]
Data = Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")]
Files = Annotated[str, typer.Option(help="A folder of class/image files, or 'samples'.")]
Defense = Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.1)'.")]
Attack = Annotated[str, typer.Option(help="A pgd call in linf: eps, steps and step size of all.")]
Samples = Annotated[int, typer.Option(help="m, draws of a step.")]
Limit = Annotated[int, typer.Option(help="Images.")]
Candidates = Annotated[int, typer.Option(help="Images read; those the vote gets right are attacked.")]
AtMost = Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")]
PassBatch = Annotated[int, typer.Option(help="Images of a pass.")]
Side = Annotated[int, typer.Option(help="Of the images, in pixels.")]
Rounds = Annotated[int, typer.Option(help="How often each side is timed.")]
Out = Annotated[Path | None, typer.Option(help="JSON file for the figures.")]


def need_oracles() -> None:
    """Raises InputError where a package that the oracles call is not installed."""
    missing = [name for name in ("skimage", "scipy", "pywt") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"bench needs what it compares with, {', '.join(missing)} not installed: pip install 'cannonade[bench]'"
        )


def save(out: Path | None, record: Mapping[str, Any]) -> None:
    """Write figures as JSON, after what they were measured on; nothing where there is no file."""
    from cannonade.bench.hardware import describe

    if out is not None:
        out.write_text(json.dumps({"hardware": describe()} | dict(record), indent=2) + "\n")


def save_rows(out: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write figures that were computed, not measured, as a JSON list; nothing where there is no file."""
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n")


def yes(value: bool) -> str:
    """A truth value in a table."""
    return "yes" if value else "no"


def within(ratio: float, interval: tuple[float, float]) -> str:
    """A ratio and its interval in a table."""
    return f"{ratio:.3g} [{interval[0]:.3g}–{interval[1]:.3g}]"


def interval_note(rounds: int) -> str:
    """What stands in the brackets of `within`, after so many rounds."""
    from cannonade.bench.timing import coverage, skipped_at_each_end

    share = coverage(rounds, skipped_at_each_end(rounds))
    return f"ratios: the median of the rounds', and between which the true median lies with probability {share:.2f}"
