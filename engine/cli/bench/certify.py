"""`cannonade bench certify`: what a sequential test saves in certifying at a radius."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import bench, save


@bench.command()
def certify(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")] = (
        "efficientnet_lite0"
    ),
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")] = "samples",
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    restrict: Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")] = False,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in pixel units of [0, 1].")] = 0.25,
    radius: Annotated[float, typer.Option(help="Asked for, in L2 and pixel units of [0, 1].")] = 0.25,
    n0: Annotated[int, typer.Option(help="Predictions that choose the class.")] = 50,
    n: Annotated[int, typer.Option(help="Predictions that bound its probability, at most.")] = 1_000,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong certificate, for each image.")] = 1e-3,
    limit: Annotated[int, typer.Option(help="Images.")] = 4,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    rounds: Annotated[int, typer.Option(help="How often each way is timed.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
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
    settings = {"model": model, "data": data, "sigma": sigma, "radius": radius, "n0": n0, "n": n, "alpha": alpha}
    settings |= {"images": len(images), "seed": seed, "differing": found.differing}
    save(out, settings | {"rows": [row.as_json() for row in found.rows]})
