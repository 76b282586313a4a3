"""`cannonade bench scaling`: cost against m, n, side, batch, κ and classes."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Rounds, bench, save
from cannonade.cli.options import Rows
from cannonade.errors import InputError


@bench.command()
def scaling(
    axis: Annotated[
        list[str] | None,
        typer.Option(help="samples, votes, side, batch, k or classes; several for several, all by default."),
    ] = None,
    points: Annotated[
        list[str] | None, typer.Option(help="Of an axis, such as samples=1,4,16; several for several axes.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Classifier on all axes but side; its weights are random.")
    ] = "cifar_resnet20",
    side_model: Annotated[str, typer.Option(help="Classifier on the axis side.")] = "resnet18",
    defense: Annotated[str, typer.Option(help="On all axes but k.")] = "rotation(degrees=90)",
    program: Annotated[str, typer.Option(help="On the axis k: bart, or bart_gao with --points to k=6.")] = "bart",
    data: Data = "samples",
    samples: Annotated[int, typer.Option(help="m on the other axes.")] = 1,
    side: Annotated[int, typer.Option(help="Of the images, on the other axes.")] = 32,
    batch: Annotated[int, typer.Option(help="Images, on the other axes.")] = 4,
    classes: Annotated[int, typer.Option(help="Logits, on the other axes.")] = 10,
    chunk: Rows = "auto",
    threads: Annotated[list[int] | None, typer.Option(help="Several for several; 1 and 2 by default.")] = None,
    rounds: Rounds = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file; the figure stands beside it as PNG.")] = None,
) -> None:
    """What gradients and predictions cost against m, n, image side, batch, κ and classes: time, a line through it, memory.

    One axis is varied at a time: votes times a majority vote, the others a gradient of EOT, of the whole batch.
    """
    from rich.table import Table

    from cannonade.bench.scaling import AXES, Line, Point, Settings, measure, parse_points
    from cannonade.bench.scaling_plot import plot
    from cannonade.evaluation.page import figure_png
    from cannonade.evaluation.subject import parse_chunk
    from cannonade.files import replace_file

    settings = Settings(
        model=model, side_model=side_model, defense=defense, program=program, data=data, samples=samples, side=side,
        batch=batch, classes=classes, chunk=parse_chunk(chunk),
    )  # fmt: skip
    own = parse_points(points or ())
    chosen = axis or list(AXES)
    if unused := [name for name in own if name not in chosen]:
        raise InputError(f"points must be of an axis that is measured, {', '.join(chosen)}, got {unused[0]!r}")
    if unknown := [name for name in chosen if name not in AXES]:
        raise InputError(f"an axis is one of {', '.join(AXES)}, got {unknown[0]!r}")
    plan = {name: own.get(name, AXES[name].points) for name in chosen}
    found: list[Point] = []
    lines: list[Line] = []
    for there, fitted in measure(plan, settings, threads=threads or (1, 2), rounds=rounds):
        found += there
        lines += fitted
        name = fitted[0].axis
        table = Table(name, "threads", "ms", "quartiles", "MiB", box=None)
        for point in there:
            ends = " – ".join(f"{value:.4g}" for value in point.quartiles)
            memory = "—" if point.memory is None else f"{point.memory:.1f}"
            table.add_row(str(point.value), str(point.threads), f"{point.milliseconds:.4g}", ends, memory)
        console.print(table)
        for line in fitted:
            console.print(
                f"threads {line.threads}: {line.slope:.4g} ms · {AXES[name].variable} {line.intercept:+.4g} ms; "
                f"R² = {line.r_squared:.5f}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    record = vars(settings) | {"rounds": rounds}
    save(out, record | {"points": [each.as_json() for each in found], "lines": [each.as_json() for each in lines]})
    if out is not None:
        picture = out.with_suffix(".png")
        replace_file(picture, figure_png(plot(found, lines)))
        console.print(str(picture), highlight=False, soft_wrap=True)
