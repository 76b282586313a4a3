"""`cannonade bench profile`: where the time of a defended gradient goes."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Networks, Out, PassBatch, Side, bench, save


@bench.command()
def profile(
    data: Data = "samples",
    model: Networks = None,
    defense: Annotated[list[str] | None, typer.Option(help="A transform or program; several for several.")] = None,
    samples: Annotated[list[int] | None, typer.Option(help="m, a pass for each; several for several.")] = None,
    batch: PassBatch = 16,
    side: Side = 224,
    rounds: Annotated[int, typer.Option(help="How often it is timed, with and without the profiler.")] = 5,
    out: Out = None,
) -> None:
    """Where the time of a defended gradient goes, by PyTorch's profiler: draws, schedule, transforms, model, reduction."""
    from rich.table import Table

    from cannonade.bench.overhead import Sides
    from cannonade.bench.profile import PARTS
    from cannonade.bench.profile import profile as measure
    from cannonade.bench.subjects import photos

    images = photos(data, batch, side)
    table = Table("model", "defense", "m", "ms", *PARTS, "without profiler", box=None)
    rows, wholes = [], []
    for name in model or ["efficientnet_lite0"]:
        sides = Sides(name, images, rounds)
        for call in defense or ["smoothing", "rotation", "bart_gao(k=6)", "bart(k=5)"]:
            for m in samples or [1, 16]:
                found = measure(sides.defended_gradient(call, m), batch * m, rounds)
                case = {"model": name, "defense": call, "samples": m}
                times = {"profiled": found.profiled, "plain": found.plain, "plain_quartiles": found.plain_quartiles}
                wholes.append(case | times)
                rows += [case | share.as_json() for share in found.shares]
                parts = (f"{share.milliseconds:.3g} ({share.share:.1%})" for share in found.shares)
                table.add_row(name, call, str(m), f"{found.profiled:.3g}", *parts, f"{found.plain:.3g}")
    Console(width=200).print(table)  # a table of figures is of no use folded
    console.print("ms of one gradient of one image; the parts add up to the time with the profiler", soft_wrap=True)
    save(out, {"batch": batch, "side": side, "rounds": rounds, "wholes": wholes, "parts": rows})
