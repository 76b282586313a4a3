"""`cannonade reproduce table1`, `figure1` and `figure2`."""

from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights
from cannonade.cli.reproduce.app import (
    Batch,
    Data,
    Eps,
    Limit,
    Model,
    Out,
    Resume,
    Scale,
    Stop,
    Target,
    Votes,
    interval,
    percent,
    reproduce,
    say,
)

if TYPE_CHECKING:
    from cannonade.experiments.strength_run import Gain


def _register(name: str, what: str) -> None:
    """Add the command of one of the studies of strength."""

    @reproduce.command(name, help=f"{what}: PGD with and without EOT at equal strength, the best step size of each.")
    def study(
        model: Model,
        data: Data,
        out: Out,
        weights: Weights = None,
        restrict: Restrict = False,
        scale: Scale = "full",
        defense: Annotated[str | None, typer.Option(help="In place of the study's own.")] = None,
        strength: Annotated[
            list[str] | None, typer.Option(help="k x m, such as 50x1, in place of the scale's; several times.")
        ] = None,
        step_size: Annotated[
            list[str] | None, typer.Option(help="Such as 1/255, in place of the scale's; several times.")
        ] = None,
        goal: Annotated[str | None, typer.Option(help="untargeted or targeted, of a study of both.")] = None,
        votes: Votes = None,
        eps: Eps = "8/255",
        target: Target = "random",
        limit: Limit = None,
        stop: Stop = "none",
        batch: Batch = 32,
        chunk: Rows = "auto",
        seed: Seed = 0,
        device: Device = "auto",
        resume: Resume = False,
    ) -> None:
        from cannonade.cli.evaluate import run_cells
        from cannonade.cli.progress import Limits
        from cannonade.evaluation.assemble import assemble
        from cannonade.experiments.strength import cells_of, changes_of, find_study, parse_goal, parse_strength
        from cannonade.experiments.strength_run import best_points, gains, write_study
        from cannonade.experiments.unlike import with_own

        found = with_own(
            find_study(name, scale), goals=(parse_goal(goal),) if goal else None,
            defenses=None if defense is None else (defense,),
            strengths=tuple(map(parse_strength, strength)) if strength else None,
            step_sizes=tuple(step_size) if step_size else None, votes=votes, eps=eps, limit=limit, stop=stop,
        )  # fmt: skip
        cells = cells_of(found, target=target, seed=seed)
        plans = assemble(
            [cell.settings for cell in cells], model=model, weights=weights, data=data, limit=found.limit, batch=batch,
            chunk=chunk, device=device, restrict=restrict, stop=found.stop,
        )  # fmt: skip
        found = with_own(found, limit=len(plans[0].source))  # the data may have fewer
        by_cell = dict(zip(cells, plans, strict=True))
        run_cells(by_cell, out, "resume" if resume else "new", Limits())
        points = best_points(found, by_cell, out)
        say(found.title)
        for point in points:
            paper = "" if point.published is None else f"; paper {percent(point.published)}"
            say(
                f"{point.defense}, {point.goal}, PGD-{point.steps} x EOT-{point.samples}, step {point.step_size}: "
                f"{percent(point.summary['success_rate'])} {interval(point.summary['success_rate_ci95'])} of "
                f"{point.summary['attacked']}{paper}"
            )
        for gain in gains(points):
            say(_gain_text(gain))
        for change in changes_of(name, found):
            say(f"unlike the original: {change}")
        for path in write_study(found, points, name, out):
            say(str(path))


def _gain_text(gain: "Gain") -> str:
    """What EOT changed, on one line."""
    from cannonade.experiments.strength_run import MARGIN

    start = f"{gain.defense}, {gain.goal}, k·m = {gain.strength}: EOT-{gain.with_eot[1]}"
    counts = gain.counts
    wide, narrow = counts.interval(0.95), counts.interval(0.9)
    if wide is None or narrow is None:
        return f"{start} cannot be compared, no image was attacked with it and without"
    return (
        f"{start} {counts.points:+.1f} points, 95 % interval [{wide[0]:+.1f}, {wide[1]:+.1f}], alone {counts.only_first}, "
        f"EOT-1 alone {counts.only_second} of {counts.pairs}, p = {counts.p:.2g}, one-sided for EOT "
        f"p = {counts.p_first_stronger:.2g}, equivalent within {MARGIN:g} points: "
        f"{'yes' if counts.equivalent(MARGIN) else 'no'}, 90 % interval "
        f"[{narrow[0]:+.1f}, {narrow[1]:+.1f}]"
    )


for _name, _what in (
    ("table1", "Table 1, random rotation"),
    ("figure1", "Figure 1, BaRT's noise injection"),
    ("figure2", "Figure 2, randomised smoothing"),
):
    _register(_name, _what)
