"""`cannonade bench eot`: the gradient of m draws against that of many."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.bench.app import Data, Defense, Limit, Model, Out, bench, save
from cannonade.cli.options import Seed, Weights


@bench.command()
def eot(
    model: Model,
    data: Data,
    defense: Defense,
    weights: Weights = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, margin or dlr.")] = "margin",
    reference: Annotated[int, typer.Option(help="M, draws of the reference.")] = 10_000,
    repetitions: Annotated[int, typer.Option(help="Estimates of each m.")] = 200,
    limit: Limit = 3,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """The gradient of m draws against that of many, for each average: cosine, bias, and what theory predicts."""
    import torch
    from rich.table import Table

    from cannonade.bench.eot import measure
    from cannonade.evaluation.subject import open_subject

    subject = open_subject(
        model=model, data=data, defense=defense, weights=weights, limit=limit, seed=seed, device="cpu"
    )
    items, images, _ = next(subject.batches(limit))
    labels = torch.tensor([item.label for item in items])
    table = Table("average", "image", "m", "cosine", "predicted", "ratio", "tau", "norm spread", "bias", box=None)
    rows = []
    for row in measure(subject.defended, images, labels, loss=loss, reference=reference, repetitions=repetitions):
        rows.append(row)
        known = row.average == "loss"
        table.add_row(
            row.average, str(row.image), str(row.samples), f"{row.cosine:.4f} ± {row.error:.4f}",
            f"{row.predicted:.4f}" if known else "—", f"{row.cosine / row.predicted:.3f}" if known else "—",
            f"{row.tau:.1f}" if known else "—", f"{row.spread:.2f}", f"{row.bias:.3f}",
        )  # fmt: skip
    Console(width=150).print(table)
    record = {"defense": defense, "loss": loss, "reference": reference}
    save(out, record | {"rows": [row.as_json() for row in rows]})
