"""`cannonade vote`: the answer of a defended classifier on a data set; `cannonade vote-savings`: what stopping early saves."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cannonade.cli.app import app, console
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights

if TYPE_CHECKING:
    from cannonade.voting import Votes

_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@app.command()
def vote(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.1)'.")],
    weights: Weights = None,
    restrict: Restrict = False,
    votes: Annotated[int, typer.Option(help="n, predictions of each image, at most.")] = 500,
    stop: Annotated[str, typer.Option(help="none, exact or sequential.")] = "sequential",
    alpha: Annotated[float, typer.Option(help="Of the sequential rule: chance of another label than all n.")] = 1e-3,
    reading: Annotated[str, typer.Option(help="majority, all, any, mean_probs or mean_logits.")] = "majority",
    check: Annotated[bool, typer.Option(help="Also take all n votes, and say where they disagree.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = None,
    batch: Annotated[int, typer.Option(help="Images that share the passes.")] = 128,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON-lines file with a record per image.")] = None,
) -> None:
    """Vote on every image of a data set: accuracy, and the votes that it took."""
    from cannonade.draws import Phase
    from cannonade.evaluation.subject import open_subject, parse_chunk
    from cannonade.voting import majority_vote

    rows = parse_chunk(chunk)
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
    records: list[dict[str, Any]] = []
    for items, images, ids in subject.batches(batch):
        cast = majority_vote(
            subject.defended, images, votes, stop=None if stop == "none" else stop, alpha=alpha, reading=reading,  # type: ignore[arg-type]
            phase=Phase.BENIGN_VOTE, ids=ids, chunk=rows,
        )  # fmt: skip
        full = majority_vote(
            subject.defended, images, votes, reading=reading, phase=Phase.BENIGN_VOTE, ids=ids, chunk=rows,  # type: ignore[arg-type]
        ) if check else None  # fmt: skip
        records += [_record(item.id, item.label, row, cast, full) for row, item in enumerate(items)]
        console.print(f"{len(records)} of {len(subject.source)} images", highlight=False)
    if out is not None:
        out.write_text("".join(json.dumps(record) + "\n" for record in records))
    _print(records, votes)


def _record(id_: int, label: int, row: int, cast: "Votes", full: "Votes | None") -> dict[str, Any]:
    counts = (full or cast).counts[row]
    return {
        "id": id_,
        "label": label,
        "decision": int(cast.labels[row]),
        "counts": {str(int(place)): int(cast.counts[row, place]) for place in cast.counts[row].nonzero()[:, 0]},
        "used": int(cast.used[row]),
        "forwards": int(cast.forwards[row]),
        "share": float(counts.max() / counts.sum()),
        "full_decision": None if full is None else int(full.labels[row]),
    }


def _print(records: list[dict[str, Any]], votes: int) -> None:
    from rich.table import Table

    table = Table("leader's share", "images", "votes used", "forwards", "saved", "disagree", box=None, pad_edge=False)
    for low, high in zip(_BINS, (*_BINS[1:], 1.01), strict=True):
        _add_row(table, f"{low:.2f} – {min(high, 1):.2f}", [r for r in records if low <= r["share"] < high], votes)
    _add_row(table, "all", records, votes)
    console.print(table)
    right = sum(record["decision"] == record["label"] for record in records)
    console.print(f"right: {right} of {len(records)}", highlight=False)


def _add_row(table: Any, name: str, records: list[dict[str, Any]], votes: int) -> None:
    if not records:
        return
    used = sum(record["used"] for record in records) / len(records)
    forwards = sum(record["forwards"] for record in records) / len(records)
    checked = [record for record in records if record["full_decision"] is not None]
    wrong = sum(record["decision"] != record["full_decision"] for record in checked)
    table.add_row(
        name,
        str(len(records)),
        f"{used:.1f}",
        f"{forwards:.1f}",
        f"{votes / used:.1f}×",
        f"{wrong} of {len(checked)}" if checked else "not checked",
    )


@app.command()
def vote_savings(
    repetitions: Annotated[int, typer.Option(help="Random orders of each share.")] = 2000,
    votes: Annotated[int, typer.Option(help="n, votes of each order.")] = 500,
    alpha: Annotated[float, typer.Option(help="Chance of another label than all n.")] = 1e-3,
) -> None:
    """Simulate votes for a class and two rivals, 3 to 2: what each stopping rule uses, and how often it is wrong."""
    from rich.table import Table

    from cannonade.experiments.early_stopping import savings

    rows = savings(repetitions, n=votes, alpha=alpha)
    rules = list(dict.fromkeys(row.rule for row in rows))
    table = Table("share", *rules, box=None, pad_edge=False)
    for share in dict.fromkeys(row.share for row in rows):
        found = [row for row in rows if row.share == share]
        table.add_row(f"{share:.2f}", *(f"{row.votes:.0f} ({row.disagreements} wrong)" for row in found))
    console.print(table)
