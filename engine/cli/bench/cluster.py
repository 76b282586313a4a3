"""`cannonade bench cluster`: a run directory under a thousand workers."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import Out, bench, save_rows


@bench.command()
def cluster(
    images: Annotated[int, typer.Option(help="Of the data set.")] = 50_000,
    gradients: Annotated[int, typer.Option(help="k·m of each image.")] = 20_000,
    batch: Annotated[list[int] | None, typer.Option(help="Images of a batch; several for several columns.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Processes; several for several columns.")] = None,
    rate: Annotated[float, typer.Option(help="Gradients a second of one worker: an assumption.")] = 1000.0,
    latency: Annotated[
        list[float] | None, typer.Option(help="Seconds that the file system adds to an operation; several for several.")
    ] = None,
    deaths: Annotated[int, typer.Option(help="Workers that die.")] = 10,
    folder: Annotated[Path | None, typer.Option(help="Where the directory's operations are timed.")] = None,
    out: Out = None,
) -> None:
    """What a run directory must bear that many workers share: a simulation with the measured costs of its operations."""
    from itertools import product

    from cannonade.bench.cluster import Cluster, measure_costs, simulate, table

    courses = []
    for count, size, delay in product(workers or [1000], batch or [8], latency or [0.0]):
        plan = Cluster(
            images=images, gradients=gradients, batch=size, workers=count, rate=rate, latency=delay, deaths=deaths
        )
        costs = measure_costs(plan, folder)
        courses.append((plan, costs, simulate(plan, costs)))
        times = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in vars(costs).items())
        console.print(f"batch {size}: {times}", highlight=False)
    console.print(table((plan, course) for plan, _, course in courses), markup=False, highlight=False, soft_wrap=True)
    save_rows(
        out, [{"cluster": vars(plan), "costs": vars(costs), "course": vars(course)} for plan, costs, course in courses]
    )
