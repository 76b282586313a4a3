"""`cannonade bench loader`: loaders on the same files."""

from typing import Annotated, Any

import typer

from cannonade.cli.app import console
from cannonade.cli.bench.app import AtMost, Files, Out, Side, bench, interval_note, save, within, yes
from cannonade.cli.options import Restrict, Weights


@bench.command()
def loader(
    data: Files,
    side: Side = 224,
    limit: AtMost = 1000,
    batch: Annotated[int, typer.Option(help="Images of a batch.")] = 64,
    workers: Annotated[int, typer.Option(help="Threads of DALI, and worker processes of the others.")] = 2,
    rounds: Annotated[int, typer.Option(help="How often each side is timed; 0 times nothing.")] = 5,
    model: Annotated[
        str | None, typer.Option(help="Classifier whose clean accuracy is compared, such as efficientnet_lite0.")
    ] = None,
    weights: Weights = None,
    restrict: Restrict = False,
    out: Out = None,
) -> None:
    """DALI, the portable loader and torchvision's DataLoader on the same files: pixels, accuracy, images a second."""
    from rich.table import Table

    from cannonade.bench.loader import as_json, check, judge, measure
    from cannonade.data.sources import open_source
    from cannonade.models import load_model

    source = open_source(data)
    classes = sorted({item.label for item in source.items}) if restrict else None
    source = (source if classes is None else source.numbered(classes)).limited(limit)
    size, settings = (side, side), {"batch": batch, "workers": workers}
    differences = check(source, size, **settings)
    pixels = Table("", "augmented", "mean difference", "largest", box=None)
    for each in differences:
        names = f"{each.first}, {each.second}"
        pixels.add_row(names, yes(each.augmented), f"{255 * each.mean:.4f}/255", f"{255 * each.max:.2f}/255")
    console.print(pixels)
    accuracies = []
    if model is not None:
        classifier = load_model(model, weights=weights, classes=classes)
        source.check_labels(classifier.num_classes)
        accuracies = list(judge(classifier, source, size, **settings))
        right = Table("", "right", "classified otherwise than with DALI", box=None)
        for row in accuracies:
            share = f"{row.right} of {row.images}, {100 * row.right / row.images:.2f} %"
            right.add_row(row.side, share, str(row.changed))
        console.print(right)
    speeds = list(measure(source, size, rounds=rounds, **settings)) if rounds else []
    if speeds:
        table = Table("", "augmented", "images/s", "quartiles", "× torchvision", box=None)
        for speed in speeds:
            quartiles = " – ".join(f"{value:.0f}" for value in speed.quartiles)
            ratio = within(speed.ratio, speed.ratio_interval)
            table.add_row(speed.side, yes(speed.augmented), f"{speed.median:.0f}", quartiles, ratio)
        console.print(table)
        console.print(interval_note(rounds), highlight=False)
    figures: dict[str, list[Any]] = {"pixels": differences, "accuracy": accuracies, "speed": speeds}
    record = {"side": side, "images": len(source), "model": model} | settings
    save(out, record | {name: as_json(rows) for name, rows in figures.items()})
