"""`cannonade reproduce theory`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.app import console
from cannonade.cli.reproduce.app import reproduce

if TYPE_CHECKING:
    from cannonade.experiments.theory_report import Comparison


@reproduce.command()
def theory(
    out: Annotated[Path, typer.Option(help="Folder for theory.json and theory.svg.")],
    eps: Annotated[float, typer.Option(help="Radius of the attack, in units of the task's x.")] = 0.1,
    points: Annotated[int, typer.Option(help="Points of each simulation.")] = 400_000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Section 5: equations (4) to (8) and the general shift, in closed form and simulated; robustness against invariance.

    Exits with status 1 where a simulation is more than 4 standard errors from its closed form.
    """
    from cannonade.experiments.theory_report import reproduce_theory

    console.print("equation                   σ     k    closed    simulated        deviation", highlight=False)
    rows, least = reproduce_theory(out, eps=eps, points=points, seed=seed, progress=_print)
    console.print(
        f"the order (5) > (6) > (4) holds from σ = {least:.3f} on at ε = {eps:g}, and not for smaller σ\n"
        f"{out / 'theory.svg'}\n{out / 'theory.json'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if not all(row.agrees for row in rows):
        raise typer.Exit(1)


def _print(row: "Comparison") -> None:
    sigma = "—" if row.sigma is None else f"{row.sigma:g}"
    console.print(
        f"{row.name:24}  {sigma:>4}  {row.k:>4g}   {row.closed:.5f}   {row.simulated:.5f} ± {row.standard_error:.5f}  "
        f"{row.deviation:+.1f} {'' if row.agrees else 'DISAGREES'}",
        highlight=False,
    )
