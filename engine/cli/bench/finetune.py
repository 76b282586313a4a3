"""`cannonade bench finetune`: training on defended images."""

from typing import Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import AtMost, Files, Out, Side, bench, interval_note, need_oracles, save, within, yes


@bench.command()
def finetune(
    data: Files,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times; smoothing, bart(k=5), bart_gao(k=6) by default."),
    ] = None,
    model: Annotated[str, typer.Option(help="Network that is trained, from random weights.")] = "resnet34",
    side: Side = 224,
    limit: AtMost = 128,
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    workers: Annotated[int, typer.Option(help="Of each side's loader; theirs also defend the images.")] = 2,
    rounds: Annotated[int, typer.Option(help="Passes over the images that are timed of each side.")] = 5,
    out: Out = None,
) -> None:
    """Training on defended images, batched by us or image by image in the workers of a DataLoader: images a second."""
    need_oracles()
    from rich.table import Table

    from cannonade.bench.finetune import check, measure
    from cannonade.data.sources import open_source
    from cannonade.defenses import build_transform

    source = open_source(data)
    source = source.numbered(sorted(source.classes)).limited(limit)
    size, rows, apart = (side, side), [], {}
    table = Table("", "network", "ours", "quartiles", "image by image", "quartiles", "ratio", box=None)
    for call in defense or ("smoothing", "bart(k=5)", "bart_gao(k=6)"):
        apart[call] = check(source.limited(16), size, build_transform(call))
        for row in measure(source, size, call, model=model, batch=batch, workers=workers, rounds=rounds):
            rows.append(row)
            sides = (row.ours, row.ours_quartiles), (row.theirs, row.theirs_quartiles)
            figures = (
                text for median, ends in sides for text in (f"{median:.1f}", " – ".join(f"{x:.1f}" for x in ends))
            )
            table.add_row(row.defense, yes(row.model), *figures, within(row.ratio, row.ratio_interval))
        console.print(f"{call}: {_apart(apart[call])}", style="dim", highlight=False)
    console.print(table)
    console.print(f"images a second; network: trained, {model}; else the images were only made", highlight=False)
    console.print(interval_note(rounds), highlight=False, soft_wrap=True)
    record = {"side": side, "images": len(source), "model": model, "batch": batch, "workers": workers}
    save(out, record | {"difference": apart, "speed": [row.as_json() for row in rows]})


def _apart(difference: float | None) -> str:
    return "nothing but noise" if difference is None else f"noise aside, the sides are {255 * difference:.3f}/255 apart"
