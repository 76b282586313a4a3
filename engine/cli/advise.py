"""`cannonade advise`: how an attack should spend a fixed budget of gradients on a defense."""

from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.app import app, console
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights
from cannonade.errors import InputError

if TYPE_CHECKING:
    from cannonade.experiments.advise import Agreement, Trial


@app.command()
def advise(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.5)'.")],
    attack: Annotated[
        str, typer.Option(help="A pgd call; its steps and step size are what advice is given on.")
    ] = "pgd(eps=8/255)",
    weights: Weights = None,
    restrict: Restrict = False,
    budget: Annotated[int, typer.Option(help="k·m, gradients per image.")] = 100,
    samples: Annotated[str, typer.Option(help="Values of m to try; those that divide the budget.")] = "1,5,20",
    steps: Annotated[str, typer.Option(help="Step sizes to try, as shares of eps.")] = "1/16,1/8,1/4",
    averages: Annotated[str, typer.Option(help="What EOT may average.")] = "loss,logits,probs",
    target: Annotated[int | None, typer.Option(help="Class of a targeted attack; untargeted without.")] = None,
    votes: Annotated[int, typer.Option(help="n, predictions of a vote.")] = 20,
    limit: Annotated[int, typer.Option(help="Images of the pilot.")] = 16,
    confirmed: Annotated[int, typer.Option("--confirm", help="Further images to confirm the advice on.")] = 0,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """A pilot over steps, draws a step, step size and average, all on the same budget, by successive halving.

    Reports which allocation breaks most, and how far the gradients of single draws agree: where they do, averaging buys little.
    """
    from dataclasses import replace

    import torch

    from cannonade.attacks.eot import EOT
    from cannonade.attacks.goals import Goal, Targeted, Untargeted
    from cannonade.attacks.pgd import PGD
    from cannonade.draws import Phase
    from cannonade.evaluation.paired import Paired
    from cannonade.evaluation.subject import open_subject, parse_chunk
    from cannonade.experiments.advise import agreement, allocations, confirm, pilot
    from cannonade.spec import build, call_text
    from cannonade.voting import majority_vote

    rows = parse_chunk(chunk)
    base: PGD = replace(build(attack, {"pgd": PGD}, "attack"), gradient=EOT(chunk=rows))
    candidates = allocations(
        budget, base.eps, [int(part) for part in _numbers(samples)], _numbers(steps), averages.split(",")
    )
    for candidate in candidates:
        candidate.attack(base)  # so that a slip of the pen is answered before the pilot
    if limit < 1 or confirmed < 0 or votes < 1:
        raise InputError(
            f"limit and votes must be at least 1 and confirm at least 0, got {limit}, {votes}, {confirmed}"
        )
    subject = open_subject(
        model=model,
        data=data,
        defense=defense,
        weights=weights,
        limit=limit + confirmed,
        seed=seed,
        device=device,
        restrict=restrict,
    )
    items, images, ids = next(subject.batches(len(subject.source)))
    labels = torch.tensor([item.label for item in items], device=subject.device)
    benign = majority_vote(subject.defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids, chunk=rows)
    open_ = benign.labels == labels if target is None else (benign.labels != target) & (labels != target)
    places = open_.nonzero()[:, 0]
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).to(places.device)]
    first, rest = places[:limit], places[limit:]
    console.print(
        f"{len(first)} images in the pilot, of {len(images)} read; {len(candidates)} allocations of {budget} gradients"
    )

    def goal(chosen: torch.Tensor) -> Goal:
        return (
            Untargeted(labels[chosen]) if target is None else Targeted(torch.full_like(chosen, target), labels[chosen])
        )

    common = agreement(subject.defended, images[first], goal(first), base, ids=ids[first])
    _print_agreement(common, sorted({candidate.samples for candidate in candidates}))
    trials = pilot(
        subject.defended, images[first], goal(first), base, candidates, ids=ids[first], votes=votes,
        progress=lambda trial: console.print(_line(trial), style="dim", highlight=False),
    )  # fmt: skip
    _print_ranking(trials, base.eps)
    best = trials[0].allocation
    call = call_text("pgd", replace(best.attack(base), gradient=EOT()))
    console.print(
        f"advice: --attack '{call}' --eot {best.samples} --average {best.average}", highlight=False, soft_wrap=True
    )
    if len(rest) < confirmed:
        console.print(
            f"{len(rest)} images are left to confirm on, not {confirmed}: the others read are no target of the attack, or the "
            "pilot's; read more with a larger --confirm",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip
    if len(rest):
        leaders = {trial.allocation.samples: trial for trial in reversed(trials)}  # the best of each m
        first_won = None
        for trial in sorted(leaders.values(), key=lambda each: each.merit, reverse=True):
            won = confirm(
                subject.defended, images[rest], goal(rest), base, trial.allocation, ids=ids[rest], votes=5 * votes
            )
            first_won = won if first_won is None else first_won
            p = Paired.of(first_won.tolist(), won.tolist()).p
            verdict = (
                ""
                if won is first_won
                else f"; from the first {'' if p < 0.05 else 'not '}to be told apart (p = {p:.2g})"
            )
            console.print(
                f"on {len(rest)} other images: {100 * float(won.double().mean()):.0f} % by {_name(trial)}{verdict}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def _numbers(text: str) -> list[float]:
    """Numbers and fractions, separated by commas."""
    from cannonade.spec import parse_call

    _, arguments = parse_call(f"list(values=({text},))", "list")
    return list(arguments["values"])


def _name(trial: "Trial") -> str:
    own = trial.allocation
    return f"{own.steps} steps of {own.step_size:.4g}, {own.samples} draws each ({own.average})"


def _line(trial: "Trial") -> str:
    return f"round {trial.rounds}: {_name(trial)}: {100 * trial.rate:.0f} %, lead {trial.lead:+.2f}"


def _print_agreement(common: "Agreement", samples: list[int]) -> None:
    cosines = ", ".join(f"{common.cosine(m):.2f} for m = {m}" for m in samples)
    console.print(
        f"two draws agree on {100 * common.signs:.1f} % of the gradient's signs (50 % is chance); cosine with the mean "
        f"gradient {cosines}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _print_ranking(trials: "list[Trial]", eps: float) -> None:
    from rich.table import Table

    table = Table("steps", "draws", "step size / eps", "average", "rounds", "images", "success", "lead", box=None)
    for trial in trials:
        own = trial.allocation
        table.add_row(
            str(own.steps),
            str(own.samples),
            f"{own.step_size / eps:.3g}" if eps else "—",
            own.average,
            str(trial.rounds),
            str(len(trial.reached)),
            f"{100 * trial.rate:.0f} %",
            f"{trial.lead:+.2f}",
        )
    console.print(table)
