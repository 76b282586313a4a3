"""`cannonade reproduce table2`."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights
from cannonade.cli.reproduce.app import Batch, Resume, Scale, interval, percent, reproduce, say


@reproduce.command()
def table2(
    row: Annotated[str, typer.Option(help="guo, xie, dhillon, xiao or roth.")],
    model: Annotated[str, typer.Option(help="Classifier, best one trained for the row's defense.")],
    data: Annotated[str, typer.Option(help="ImageNet for guo and xie, CIFAR-10 for the others; see evaluate.")],
    out: Annotated[Path, typer.Option(help="Folder for table2-ROW.json and the run directory ROW.")],
    weights: Weights = None,
    restrict: Restrict = False,
    scale: Scale = "full",
    defense: Annotated[
        str | None, typer.Option(help="In place of the row's own call, such as 'kwta(fraction=0.2)'.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Images that are evaluated, spread evenly over the data.")] = 1000,
    votes: Annotated[int | None, typer.Option(help="n, of our vote; the row's own by default.")] = None,
    batch: Batch = 50,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """A row of Table 2: the original attack with EOT and the ablation without, by the row's own criterion and by our vote."""
    from cannonade.evaluation.subject import open_subject, parse_chunk
    from cannonade.experiments.table2_run import Experiment, run_row

    rows = parse_chunk(chunk)
    subject = open_subject(
        model=model, data=data, defense="identity", weights=weights, limit=None, seed=seed, device=device,
        restrict=restrict,
    )  # fmt: skip
    experiment = Experiment(
        model=model if weights is None else f"{model} with {weights}", data=data,
        row=row, scale=scale, classifier=subject.defended.classifier, source=subject.source, defense=defense,  # type: ignore[arg-type]
        limit=limit, votes=votes, batch=batch, chunk=rows, seed=seed,
    )  # fmt: skip
    found = run_row(
        experiment,
        out,
        lambda done, total: console.print(f"{done} of {total} images", style="dim", highlight=False),
        resume=resume,
        notice=say,
    )
    console.print(
        f"{found['title']}: {found['defense']}\n{found['images']} images, {percent(found['plain_accuracy'])} right without "
        f"the defense, {percent(found['benign_accuracy'])} by a vote of {found['votes']} with it",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for name, words in (("with_eot", "with EOT"), ("without_eot", "without EOT")):
        own = found[name]
        labels = {"own_criterion": f"where {found['criterion']}", "vote": "by vote", "null": "by vote unperturbed"}
        rates = ", ".join(
            f"{percent(own[key])} {interval(own[f'{key}_ci95'])} {label}" for key, label in labels.items()
        )
        console.print(
            f"{words}: {own['attack']}\n  {own['attacked']} attacked: {rates}; paper {percent(found['published'][name])}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for change in found["changes"]:
        console.print(f"unlike the original: {change}", highlight=False, soft_wrap=True)
    console.print(f"{out / f'table2-{row}.json'}", highlight=False, soft_wrap=True)
