"""`cannonade bench startup`: what a user waits for before anything is computed."""

from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Out, bench, save


@bench.command()
def startup(
    random_weights: Annotated[
        bool, typer.Option(help="Do without the pip package that has the published weights.")
    ] = False,
    data: Data = "samples",
    rounds: Annotated[int, typer.Option(help="How often each process is started and timed.")] = 5,
    out: Out = None,
) -> None:
    """Seconds of whole processes: --help, imports, and from the start of an evaluation to its first gradient.

    The evaluation is of one image, with EfficientNet-Lite0 behind smoothing. Caches are warm: each process ran once before.
    """
    from rich.table import Table

    from cannonade.bench.startup import measure

    found = measure(random_weights=random_weights, data=data, rounds=rounds)
    table = Table("", "seconds", "quartiles", "at most", "", box=None)
    for row in found:
        ends = " – ".join(f"{value:.2f}" for value in row.quartiles)
        target = "—" if row.target is None else f"{row.target:.2f}"
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        table.add_row(row.what, f"{row.seconds:.2f}", ends, target, verdict)
    console.print(table)
    save(out, {"random_weights": random_weights, "data": data, "rows": [row.as_json() for row in found]})
