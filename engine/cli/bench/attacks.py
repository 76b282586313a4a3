"""`cannonade bench attacks`: our attacks beside other libraries'."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Attack, Candidates, Data, Defense, Model, Out, Samples, bench, save
from cannonade.cli.options import Seed, Weights
from cannonade.errors import InputError


@bench.command()
def attacks(
    model: Model,
    data: Data,
    defense: Defense,
    attack: Attack,
    weights: Weights = None,
    eot: Samples = 10,
    votes: Annotated[int, typer.Option(help="n, predictions of a vote, and of the mean loss.")] = 100,
    limit: Candidates = 300,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Our attacks against other libraries' on the same images, gradients and votes: success, loss, and what could be seen.

    Needs the libraries: those of tests/peers.txt. Success should lie between 20 and 80 %: choose eps so.
    """
    import torch
    from rich.table import Table

    from cannonade.attacks.pgd import PGD
    from cannonade.bench.attacks import Comparison, Judged, compare
    from cannonade.bench.peers import Budget
    from cannonade.draws import Phase
    from cannonade.evaluation.subject import open_subject
    from cannonade.spec import build
    from cannonade.voting import majority_vote

    base: PGD = build(attack, {"pgd": PGD}, "attack")
    budget = Budget(base.eps, base.steps, base.step_size, eot)
    subject = open_subject(
        model=model, data=data, defense=defense, weights=weights, limit=limit, seed=seed, device="cpu"
    )
    items, images, ids = next(subject.batches(limit))
    labels = torch.tensor([item.label for item in items])
    vote = majority_vote(subject.defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids)
    right = vote.labels == labels
    if not right.any():
        raise InputError(f"the vote gets none of {len(images)} images right, so there is nothing to attack")
    console.print(f"{int(right.sum())} of {len(images)} images voted right, and attacked", highlight=False)

    def progress(name: str, judged: Judged) -> None:
        success, loss = float(judged.success.double().mean()), float(judged.loss.mean())
        console.print(f"{name}: {100 * success:.1f} %, mean loss {loss:.4f}", style="dim", highlight=False)

    rows: list[Comparison] = list(
        compare(subject.defended, images[right], labels[right], budget, votes=votes, progress=progress)
    )
    table = Table("first", "second", "success %", "only", "p", "mean loss", "p", "seen", "first weaker", box=None)
    for row in rows:
        table.add_row(
            row.first, row.second,
            " / ".join(f"{100 * rate:.1f}" for rate in row.success),
            " / ".join(map(str, row.only)), f"{row.p_success:.2g}",
            " / ".join(f"{value:.4f}" for value in row.loss), f"{row.p_loss:.2g}",
            f"{100 * row.seen:.1f} % {row.seen_loss:.3f}", "yes" if row.weaker else "no",
        )  # fmt: skip
    Console(width=170).print(table)
    console.print(
        "seen: the difference in success and in loss that would have been found with probability .8 at level .05"
    )
    save(out, {"budget": vars(budget), "defense": defense, "rows": [row.as_json() for row in rows]})
