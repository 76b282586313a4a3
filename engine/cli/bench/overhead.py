"""`cannonade bench overhead`: what a defense adds to the bare model."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Networks, Out, PassBatch, Rounds, Side, bench, interval_note, save, within


@bench.command()
def overhead(
    data: Data = "samples",
    model: Networks = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Compared with the bare model; several for several.")
    ] = None,
    batch: PassBatch = 16,
    side: Side = 224,
    rounds: Rounds = 5,
    peers: Annotated[bool, typer.Option(help="Also time torchattacks and the authors' manner.")] = True,
    out: Out = None,
) -> None:
    """Defended gradients and predictions against those of the bare model, and against other ways to compute them."""
    from rich.table import Table

    from cannonade.bench.overhead import Row, Sides
    from cannonade.bench.subjects import photos

    images = photos(data, batch, side)
    found: list[tuple[str, Row]] = []
    notes: list[str] = []
    for name in model or ["efficientnet_lite0"]:
        sides = Sides(name, images, rounds)
        for call in defense or ["smoothing", "rotation", "bart_gao(k=6)", "bart(k=5)"]:
            compared = list(sides.compare(call))
            found += [(name, row) for row in compared]
            if call.startswith("bart"):
                parts = sides.beside_parts(call)
                found.append((name, parts))
                gradient = compared[0]
                notes.append(
                    f"{name}, {call}: Σ p·ms = {parts.theirs:.3g} ms of its parts with gradient, {parts.ours:.3g} measured; "
                    f"over the bare gradient's {gradient.theirs:.3g} ms that is {1 + parts.theirs / gradient.theirs:.2f}×, "
                    f"measured {gradient.ratio:.2f}×"
                )
            if peers:
                found.append((name, sides.against_torchattacks(call)))
                if call.startswith("bart"):
                    found += [(name, row) for row in sides.against_authors(call)]
    table = Table("model", "defense", "what", "ours ms", "quartiles", "other ms", "quartiles", "ours / other", box=None)
    for name, row in found:
        low, high = (
            " – ".join(f"{value:.3g}" for value in pair) for pair in (row.ours_quartiles, row.theirs_quartiles)
        )
        ratio = within(row.ratio, row.ratio_interval)
        table.add_row(name, row.defense, row.what, f"{row.ours:.3g}", low, f"{row.theirs:.3g}", high, ratio)
    Console(width=170).print(table)  # a table of figures is of no use folded
    for note in (interval_note(rounds), *notes):
        console.print(note, highlight=False, soft_wrap=True)
    rows = [{"model": name} | row.as_json() for name, row in found]
    save(out, {"batch": batch, "side": side, "rounds": rounds, "rows": rows})
