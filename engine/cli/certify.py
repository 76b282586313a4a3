"""`cannonade certify`: radii that randomised smoothing guarantees, image by image."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights


@app.command()
def certify(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in pixel units of [0, 1].")],
    weights: Weights = None,
    restrict: Restrict = False,
    n0: Annotated[int, typer.Option(help="Predictions that choose the class.")] = 100,
    n: Annotated[int, typer.Option(help="Predictions that bound its probability, at most.")] = 100_000,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong certificate, for each image.")] = 1e-3,
    radius: Annotated[float | None, typer.Option(help="Stop once this is proved or given up.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = None,
    batch: Annotated[int, typer.Option(help="Images that share the passes.")] = 32,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="TSV file in the columns of locuslab/smoothing, and used.")] = None,
) -> None:
    """Certify a smoothed classifier on every image of a data set (Cohen et al., ICML 2019); -1 is to abstain."""
    from cannonade.certification import certify as certify_images
    from cannonade.evaluation.subject import open_subject, parse_chunk

    rows = parse_chunk(chunk)
    subject = open_subject(
        model=model, data=data, defense=f"smoothing(sigma={sigma})", weights=weights, limit=limit, seed=seed, device=device,
        restrict=restrict,
    )  # fmt: skip
    header = ("idx", "label", "predict", "radius", "correct", "time", "used", "anytime_radius")
    lines, right, used, images_seen = ["\t".join(header)], 0, 0, 0
    for items, images, ids in subject.batches(batch):
        started = time.monotonic()
        found = certify_images(subject.defended, images, n0=n0, n=n, alpha=alpha, radius=radius, ids=ids, chunk=rows)
        seconds = (time.monotonic() - started) / len(items)
        for row, item in enumerate(items):
            correct = int(found.labels[row]) == item.label
            lines.append(
                f"{item.id}\t{item.label}\t{int(found.labels[row])}\t{float(found.radius[row]):.6f}\t{int(correct)}\t"
                f"{seconds:.3f}\t{int(found.used[row])}\t{float(found.anytime_radius[row]):.6f}"
            )
            console.print(lines[-1].replace("\t", "  "), highlight=False)
            right += correct
        used += int(found.used.sum())
        images_seen += len(items)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")
    asked = "at a radius of their own" if radius is None else f"at radius {radius:g}"
    console.print(
        f"certified and right {asked}: {right} of {images_seen}; {used / images_seen:.0f} predictions an image",
        highlight=False,
    )
