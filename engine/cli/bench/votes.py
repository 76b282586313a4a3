"""`cannonade bench votes`: what stopping a vote early saves."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Data, Defense, Limit, Model, Out, bench, interval_note, need_oracles, save, within
from cannonade.cli.options import Restrict, Seed, Weights
from cannonade.errors import InputError


@bench.command()
def votes(
    model: Model,
    data: Data,
    defense: Defense,
    weights: Weights = None,
    restrict: Restrict = False,
    n: Annotated[int, typer.Option(help="Predictions of a full vote.")] = 500,
    alpha: Annotated[float, typer.Option(help="Of the sequential rules.")] = 1e-3,
    limit: Limit = 200,
    batch: Annotated[int, typer.Option(help="Images in memory at once.")] = 50,
    seed: Seed = 0,
    loop: Annotated[
        int,
        typer.Option(
            help="Predictions of each image that are timed in the authors' manner, beside our votes; 0: none."
        ),
    ] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="Of our votes beside --loop: sequential, exact or none; several for several."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each side of --loop is timed.")] = 3,
    out: Out = None,
) -> None:
    """Full votes on real images, replayed under every stopping rule: votes used, and disagreements with the full vote.

    With --loop, votes behind bart or bart_gao are also timed beside a loop in the manner of the paper's authors: one image at a
    time, with scikit-image. Of its n predictions the first few are timed, and their time scaled to n.
    """
    import torch
    from rich.table import Table

    from cannonade.bench.authors import Loop, check_loop, votes_beside_loop
    from cannonade.bench.votes import RULES, cast_votes, compare, count
    from cannonade.evaluation.subject import open_subject
    from cannonade.models import load_pretrained
    from cannonade.models.pretrained import keep_classes
    from cannonade.voting import Stop

    rules: dict[str, Stop | None] = {"sequential": "sequential", "exact": "exact", "none": None}
    chosen = stop or ["sequential"]
    if unknown := [each for each in chosen if each not in rules]:
        raise InputError(f"stop must be sequential, exact or none, got {unknown[0]!r}")
    if loop:
        need_oracles()
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
    if loop:
        check_loop(subject.defended.defense, loop, n)  # before the votes, which take long
    cast, labels, kept = [], [], []
    for items, images, ids in subject.batches(batch):
        if loop:
            kept.append((images, ids))
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
    record = {"model": model, "restrict": restrict, "images": len(labels), "defense": defense}
    record |= {"n": n, "alpha": alpha, "right": right, "bins": [row.as_json() for row in bins]}
    if loop:
        source = load_pretrained(model, weights=weights)
        if restrict:
            source = keep_classes(source, subject.defended.classifier.class_numbers or ())
        images, ids = (torch.cat(parts) for parts in zip(*kept, strict=True))
        rows = list(
            votes_beside_loop(
                subject.defended, Loop(source), images, ids, found, stops=[rules[each] for each in chosen], alpha=alpha,
                timed=loop, rounds=rounds,
            )
        )  # fmt: skip
        table = Table(
            "stops", "s an image", "quartiles", "votes", "timed", "× faster", "labels differ", "same label", box=None
        )
        for each in rows:
            table.add_row(
                each.way, f"{each.seconds:.3g}", " – ".join(f"{value:.3g}" for value in each.quartiles),
                f"{each.votes:.1f}", f"{each.timed:.1f}", within(each.ratio, each.ratio_interval),
                "—" if each.differing is None else f"{each.differing} of {len(images)}",
                "—" if each.agreeing is None else f"{each.agreeing:.0%}",
            )  # fmt: skip
        Console(width=120).print(table)
        console.print(f"authors' manner: {loop} of {n} predictions timed, and scaled", highlight=False, soft_wrap=True)
        console.print(interval_note(rounds), highlight=False, soft_wrap=True)
        record |= {"predictions_timed": loop, "beside_loop": [each.as_json() for each in rows]}
    save(out, record)
