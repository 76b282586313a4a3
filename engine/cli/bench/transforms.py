"""`cannonade bench transforms`: every transform against its oracle."""

from typing import Annotated, Any

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Out, Rounds, Side, bench, interval_note, need_oracles, save, within


@bench.command()
def transforms(
    only: Annotated[
        list[str] | None, typer.Option(help="A transform; may be given several times. All by default.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of one timed call.")] = 32,
    side: Side = 224,
    draws: Annotated[
        int, typer.Option(help="Parameter sets per image in the comparison with the oracle; 0 skips it.")
    ] = 8,
    rounds: Rounds = 3,
    out: Out = None,
) -> None:
    """Every BaRT transform against its oracle: difference, then ms an image, ratio and peak memory."""
    need_oracles()
    from rich.table import Table

    from cannonade.bench.transforms import expected_cost, mean_ratio, measure
    from cannonade.data.sources import open_source

    source = open_source("samples").limited(8)
    photos = (source.load(source.items, (side, side)) * 255).round() / 255
    rows = []
    table = Table(
        "", "difference", "noisy", "effect", "forward", "+ backward", "by PyTorch", "oracle", "ratio", "memory", box=None
    )  # fmt: skip
    for row in measure(photos, only, batch=batch, draws=draws, rounds=rounds):
        rows.append(row)
        table.add_row(
            row.name,
            _difference(row.clean),
            _difference(row.noisy),
            "—" if row.clean is None or row.noisy is None else f"{row.clean.effect:.2g} {row.noisy.effect:.2g}",
            f"{row.forward:.2f}",
            f"{row.backward:.2f}",
            f"{row.reference[0]:.2f} {row.reference[1]:.2f}",
            f"{row.oracle:.2f}",
            within(row.ratio, row.ratio_interval),
            "—" if row.memory is None else f"{row.memory:.1f}×",
        )
        console.print(f"{row.name}: {row.forward:.2f} ms, oracle {row.oracle:.2f} ms", highlight=False)
    Console(width=150).print(table)  # a table of figures is of no use folded
    console.print("mean and largest difference in units of [0, 1]; ms an image; memory in sizes of the input batch")
    console.print(interval_note(rounds), highlight=False, soft_wrap=True)
    mean, cost = mean_ratio(rows), expected_cost(rows)
    if mean is not None:
        console.print(f"geometric mean of the ratios: {mean:.2f}", highlight=False)
    if cost is not None:
        console.print(
            f"BaRT(5) by its parts, Σ p·ms: {cost[0]:.2f} forward, {cost[1]:.2f} with gradient", highlight=False
        )
    save(out, {"rows": [row.as_json() for row in rows]})


def _difference(result: Any) -> str:
    return "—" if result is None else f"{result.mean:.1e} {result.max:.1e}"
