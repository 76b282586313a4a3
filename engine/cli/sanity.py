"""`cannonade sanity`: whether an attack on a defense does what any attack that works must do."""

from typing import Annotated

import typer

from cannonade.cli.app import app, console
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights


@app.command()
def sanity(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'rotation(degrees=90)'.")],
    attack: Annotated[str, typer.Option(help="A pgd call, such as 'pgd(eps=8/255, steps=50, step_size=1/255)'.")],
    weights: Weights = None,
    restrict: Restrict = False,
    eot: Annotated[int, typer.Option(help="m, draws averaged at each step.")] = 1,
    average: Annotated[str, typer.Option(help="What EOT averages: loss, logits or probs.")] = "loss",
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 100,
    queries: Annotated[int, typer.Option(help="Predictions that Square may ask for, per image.")] = 500,
    alpha: Annotated[float, typer.Option(help="Probability of a false alarm.")] = 0.05,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = 20,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Success must rise with eps to 100 % and with steps, and the white box must beat transfer, Square and noise.

    Exits with status 1 where something fails.
    """
    from dataclasses import replace

    import torch

    from cannonade.attacks.eot import EOT
    from cannonade.attacks.pgd import PGD
    from cannonade.evaluation.subject import open_subject, parse_chunk
    from cannonade.experiments.sanity import check_sanity
    from cannonade.spec import build

    rows = parse_chunk(chunk)
    pgd = replace(build(attack, {"pgd": PGD}, "attack"), gradient=EOT(samples=eot, average=average, chunk=rows))  # type: ignore[arg-type]
    subject = open_subject(
        model=model,
        data=data,
        defense=defense,
        weights=weights,
        limit=limit,
        seed=seed,
        device=device,
        restrict=restrict,
    )
    items, images, ids = next(subject.batches(len(subject.source)))
    labels = torch.tensor([item.label for item in items], device=subject.device)
    outcome = check_sanity(
        subject.defended, images, labels, pgd, ids=ids, votes=votes, queries=queries, alpha=alpha, chunk=rows,
        progress=lambda course: console.print(f"{course.name}: {100 * course.rate:.0f} %", highlight=False),
    )  # fmt: skip
    console.print(
        f"{outcome.attacked} of {outcome.images} images attacked; {100 * outcome.null_rate:.0f} % fall to another vote alone",
        highlight=False,
    )
    for check in outcome.checks:
        console.print(
            f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.words}", highlight=False, soft_wrap=True
        )
    if outcome.attacked < outcome.resolution:
        console.print(f"too few images: no comparison can fail on fewer than {outcome.resolution}", highlight=False)
    if not outcome.passed:
        raise typer.Exit(1)
