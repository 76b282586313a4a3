"""`cannonade demo`: the whole flow on real photos, from pip packages alone."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console, new_directory
from cannonade.cli.progress import print_table, running

DEFENSES = ("rotation(degrees=90)", "noise_injection", "smoothing(sigma=0.1)")
ATTACK = "pgd(eps=8/255, steps=10, step_size=2/255)"


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Directory for the runs; a new one under runs/ by default.")] = None,
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 20,
) -> None:
    """The whole flow on 20 ImageNet photos with a real classifier: three defenses, PGD, majority vote, one report."""
    from cannonade.evaluation.assemble import assemble
    from cannonade.evaluation.grid import Settings
    from cannonade.evaluation.report import write_report

    parent = out or new_directory()
    evaluations = [Settings(defense=defense, attack=ATTACK, votes=votes) for defense in DEFENSES]
    plans = dict(zip(DEFENSES, assemble(evaluations, model="efficientnet_lite0", data="samples"), strict=True))
    directories = {defense: parent / defense.partition("(")[0] for defense in DEFENSES}
    with running(parent) as run_one:
        rows = [(defense, run_one(defense, plans[defense], directories[defense])) for defense in DEFENSES]
    page = write_report(list(directories.values()), parent)
    print_table(rows)
    console.print(f"report with pictures: {page}", highlight=False, soft_wrap=True)
