"""`cannonade bench certify`: what a sequential test saves in certifying at a radius."""

from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Limit, Model, Out, Rounds, bench, interval_note, save, within
from cannonade.cli.options import Restrict, Seed, Weights


@bench.command()
def certify(
    model: Model = "efficientnet_lite0",
    data: Data = "samples",
    weights: Weights = None,
    restrict: Restrict = False,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in pixel units of [0, 1].")] = 0.25,
    radius: Annotated[float, typer.Option(help="Asked for, in L2 and pixel units of [0, 1].")] = 0.25,
    n0: Annotated[int, typer.Option(help="Predictions that choose the class.")] = 50,
    n: Annotated[int, typer.Option(help="Predictions that bound its probability, at most.")] = 1_000,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong certificate, for each image.")] = 1e-3,
    limit: Limit = 4,
    seed: Seed = 0,
    rounds: Rounds = 3,
    out: Out = None,
) -> None:
    """Certificates at a radius by a sequential test, against all n predictions: time, predictions, other decisions."""
    from rich.table import Table

    from cannonade.bench.certify import compare
    from cannonade.evaluation.subject import open_subject

    subject = open_subject(
        model=model, data=data, defense=f"smoothing(sigma={sigma})", weights=weights, limit=limit, seed=seed, device="cpu",
        restrict=restrict,
    )  # fmt: skip
    _, images, ids = next(subject.batches(limit))
    found = compare(subject.defended, images, radius=radius, n0=n0, n=n, alpha=alpha, ids=ids, rounds=rounds)
    table = Table("", "ms an image", "quartiles", "predictions", "certified %", box=None)
    for row in found.rows:
        ends = " – ".join(f"{value:.4g}" for value in row.quartiles)
        table.add_row(row.rule, f"{row.milliseconds:.4g}", ends, f"{row.predictions:.0f}", f"{100 * row.certified:.1f}")
    console.print(table)
    console.print(f"{found.differing} of {len(images)} images decided otherwise", highlight=False)
    ratio = within(found.ratio.median, found.ratio.interval)
    console.print(f"fixed takes {ratio} times as long; {interval_note(rounds)}", highlight=False, soft_wrap=True)
    settings = {"model": model, "data": data, "sigma": sigma, "radius": radius, "n0": n0, "n": n, "alpha": alpha}
    settings |= {"images": len(images), "seed": seed, "differing": found.differing}
    settings |= {"ratio": found.ratio.median, "ratio_interval": found.ratio.interval}
    save(out, settings | {"rows": [row.as_json() for row in found.rows]})
