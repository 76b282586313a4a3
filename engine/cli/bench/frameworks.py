"""`cannonade bench frameworks`: other frameworks' attacks, and ours called as theirs."""

from typing import Annotated, Any

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Attack, Candidates, Data, Model, Out, Samples, bench, save
from cannonade.cli.options import Restrict, Seed
from cannonade.errors import InputError


@bench.command()
def frameworks(
    defense: Annotated[
        list[str] | None, typer.Option(help="May be given several times; rotation and BaRT of three by default.")
    ] = None,
    model: Model = "efficientnet_lite0",
    data: Data = "samples",
    attack: Attack = "pgd(eps=4/255, steps=10, step_size=1/255)",
    eot: Samples = 5,
    votes: Annotated[int, typer.Option(help="n, predictions of a vote.")] = 100,
    limit: Candidates = 20,
    restrict: Restrict = False,
    batch: Annotated[int, typer.Option(help="Images that an attack gets at once.")] = 20,
    adapters: Annotated[bool, typer.Option(help="Also our attacks called as theirs.")] = True,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Other frameworks' attacks on our classifier, and ours called as theirs: success by vote, luck, seconds.

    Needs the frameworks: those of tests/peers.txt.
    """
    import torch
    from rich.table import Table

    from cannonade.attacks.pgd import PGD
    from cannonade.bench.frameworks import measure, pairs
    from cannonade.bench.peers import Budget
    from cannonade.draws import Phase
    from cannonade.evaluation.subject import open_subject
    from cannonade.spec import build
    from cannonade.voting import majority_vote

    base: PGD = build(attack, {"pgd": PGD}, "attack")
    budget = Budget(base.eps, base.steps, base.step_size, eot)
    record: dict[str, Any] = {"model": model, "attack": attack, "eot": eot, "votes": votes}
    for call in defense or ("rotation(degrees=90)", "bart(k=3)"):
        subject = open_subject(
            model=model, data=data, defense=call, weights=None, limit=limit, seed=seed, device="cpu", restrict=restrict
        )
        items, images, ids = next(subject.batches(limit))
        labels = torch.tensor([item.label for item in items])
        right = majority_vote(subject.defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids).labels == labels
        if not right.any():
            raise InputError(f"the vote gets none of {len(images)} images right, so there is nothing to attack")
        console.print(f"{call}: {int(right.sum())} of {len(images)} images voted right, and attacked", highlight=False)
        rows = []
        for row in measure(
            subject.defended, images[right], labels[right], budget, votes=votes, batch=batch, adapters=adapters
        ):
            console.print(f"{row.framework}, {row.direction}: {100 * row.success:.0f} %", style="dim", highlight=False)
            rows.append(row)
        table = Table("framework", "attack", "what was run", "success %", "lucky %", "seconds", box=None)
        for row in rows:
            shares = f"{100 * row.success:.1f}", f"{100 * row.lucky:.1f}"
            table.add_row(row.framework, row.direction, row.what, *shares, f"{row.seconds:.1f}")
        Console(width=120).print(table)
        both = list(pairs(rows))
        table = Table(
            "their attack", "loop / one call %", "difference", "only", "p", "loop's time over the call's", box=None
        )
        for pair in both:
            rates = " / ".join(f"{100 * rate:.1f}" for rate in pair.success)
            only = f"{pair.counts.only_first} / {pair.counts.only_second}"
            table.add_row(pair.framework, rates, pair.counts.text, only, f"{pair.counts.p:.2g}", f"{pair.speed:.2f}")
        console.print(table)
        record[call] = {
            "images": int(right.sum()),
            "rows": [row.as_json() for row in rows],
            "pairs": [pair.as_json() for pair in both],
        }
    save(out, record)
