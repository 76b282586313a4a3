"""`cannonade calibrate`: statistics of clean images for the odds detector."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console
from cannonade.cli.options import Device, Restrict, Weights
from cannonade.errors import InputError


@app.command()
def calibrate(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="Clean images, best none of those that are attacked later.")],
    out: Annotated[Path, typer.Option(help="File to write, safetensors.")],
    weights: Weights = None,
    restrict: Restrict = False,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            help="n (normal), u (uniform) or s (signs) and a scale in units of [0, 1]; several times; or n30/255."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of each noise for an image.")] = 256,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = 1000,
    batch: Annotated[int, typer.Option(help="Images of one pass.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure how noise moves the logits of clean images, which --defense 'odds(statistics=FILE)' judges by."""
    from cannonade.defenses.odds import ONE_NOISE, calibrate_odds, parse_noise
    from cannonade.evaluation.subject import open_subject

    if not out.parent.is_dir():
        raise InputError(f"out must be in a folder that is there, got {out}")
    subject = open_subject(
        model=model, data=data, defense="identity", weights=weights, limit=limit, seed=seed, device=device,
        restrict=restrict,
    )  # fmt: skip
    noises = tuple(map(parse_noise, noise)) if noise else ONE_NOISE
    batches = ((images, ids) for _, images, ids in subject.batches(batch))
    statistics = calibrate_odds(subject.defended.classifier, batches, seed=seed, noises=noises, draws=draws)
    statistics.save(out)
    known = int(statistics.std[0, :, 0].isfinite().sum())
    console.print(
        f"{out}: {len(subject.source)} images; statistics for {known} of {statistics.mean.shape[1]} predicted classes",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
