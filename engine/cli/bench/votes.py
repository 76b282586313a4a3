"""`cannonade bench votes`: what stopping a vote early saves."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import bench, save


@bench.command()
def votes(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.1)'.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    restrict: Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")] = False,
    n: Annotated[int, typer.Option(help="Predictions of a full vote.")] = 500,
    alpha: Annotated[float, typer.Option(help="Of the sequential rules.")] = 1e-3,
    limit: Annotated[int, typer.Option(help="Images.")] = 200,
    batch: Annotated[int, typer.Option(help="Images in memory at once.")] = 50,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Full votes on real images, replayed under every stopping rule: votes used, and disagreements with the full vote."""
    import torch
    from rich.table import Table

    from cannonade.bench.votes import RULES, cast_votes, compare, count
    from cannonade.evaluation.subject import open_subject

    subject = open_subject(
        model=model,
        data=data,
        defense=defense,
        weights=weights,
        limit=limit,
        seed=seed,
        device="cpu",
        restrict=restrict,
    )
    cast, labels = [], []
    for items, images, ids in subject.batches(batch):
        cast.append(cast_votes(subject.defended, images, ids, n))
        labels += [item.label for item in items]
        console.print(f"{len(labels)} of {len(subject.source)} images", style="dim", highlight=False)
    found = torch.cat(cast)
    winners = count(found, subject.defended.num_classes).argmax(1)
    table = Table("leader's share", "images", *RULES, "saved", box=None)
    bins = list(compare(found, subject.defended.num_classes, alpha=alpha))
    for row in bins:
        table.add_row(
            f"{row.low:.2f} – {row.high:.2f}", str(row.images),
            *(f"{row.used[rule]:.1f} ({row.disagreements[rule]} differ)" for rule in RULES),
            f"{n / row.used['sequential']:.1f}×",
        )  # fmt: skip
    Console(width=120).print(table)
    right = int((winners == torch.tensor(labels)).sum())
    console.print(f"right by all {n} votes: {right} of {len(labels)}", highlight=False)
    record = {"defense": defense, "n": n, "alpha": alpha, "right": right}
    save(out, record | {"bins": [row.as_json() for row in bins]})
