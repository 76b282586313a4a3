"""`cannonade reproduce`: the paper's claims, each as a command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.app import app, console

if TYPE_CHECKING:
    from cannonade.evaluation.grid import Cell
    from cannonade.experiments.theory_report import Comparison

reproduce = typer.Typer(help="The paper's claims, each as a command.", no_args_is_help=True)
app.add_typer(reproduce, name="reproduce")


# What the commands that attack images take alike.
Model = Annotated[str, typer.Option(help="Classifier; see evaluate.")]
Data = Annotated[str, typer.Option(help="Images; see evaluate.")]
Out = Annotated[Path, typer.Option(help="Directory of the runs, with the study's JSON and SVG.")]
Weights = Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")]
Restrict = Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")]
Scale = Annotated[str, typer.Option(help="full, the paper's settings; or small, which says what it changed.")]
Eps = Annotated[str, typer.Option(help="Radius in L∞, such as 4/255; the paper's is 8/255.")]
Target = Annotated[str, typer.Option(help="Of targeted attacks: a class, random or least_likely.")]
Limit = Annotated[int | None, typer.Option(help="Images, spread evenly over the data; the scale's own by default.")]
Stop = Annotated[str, typer.Option(help="End votes early: none, exact or sequential.")]
Batch = Annotated[int, typer.Option(help="Images of one batch.")]
Rows = Annotated[str, typer.Option(help="Rows of one pass through the model, or auto.")]
Seed = Annotated[int, typer.Option(help="Of every draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")]
Resume = Annotated[bool, typer.Option(help="Go on with what is in --out.")]


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


@reproduce.command()
def table2(
    row: Annotated[str, typer.Option(help="guo, xie, dhillon, xiao or roth.")],
    model: Annotated[str, typer.Option(help="Classifier, best one trained for the row's defense.")],
    data: Annotated[str, typer.Option(help="ImageNet for guo and xie, CIFAR-10 for the others; see evaluate.")],
    out: Annotated[Path, typer.Option(help="Folder for table2-ROW.json.")],
    weights: Weights = None,
    restrict: Restrict = False,
    scale: Scale = "full",
    defense: Annotated[
        str | None, typer.Option(help="In place of the row's own call, such as 'kwta(fraction=0.2)'.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Images that are evaluated, spread evenly over the data.")] = 1000,
    votes: Annotated[int | None, typer.Option(help="n, of our vote; the row's own by default.")] = None,
    batch: Batch = 50,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """A row of Table 2: the original attack with EOT and the ablation without, by the row's own criterion and by our vote."""
    from cannonade.evaluation.subject import open_subject, parse_chunk
    from cannonade.experiments.table2_run import Experiment, run_row

    rows = parse_chunk(chunk)
    subject = open_subject(
        model=model, data=data, defense="identity", weights=weights, limit=None, seed=seed, device=device,
        restrict=restrict,
    )  # fmt: skip
    experiment = Experiment(
        model=model if weights is None else f"{model} with {weights}", data=data,
        row=row, scale=scale, classifier=subject.defended.classifier, source=subject.source, defense=defense,  # type: ignore[arg-type]
        limit=limit, votes=votes, batch=batch, chunk=rows, seed=seed,
    )  # fmt: skip
    found = run_row(
        experiment, out, lambda done, total: console.print(f"{done} of {total} images", style="dim", highlight=False)
    )
    console.print(
        f"{found['title']}: {found['defense']}\n{found['images']} images, {_percent(found['plain_accuracy'])} right without "
        f"the defense, {_percent(found['benign_accuracy'])} by a vote of {found['votes']} with it",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for name, words in (("with_eot", "with EOT"), ("without_eot", "without EOT")):
        own = found[name]
        labels = {"own_criterion": f"where {found['criterion']}", "vote": "by vote", "null": "by vote unperturbed"}
        rates = ", ".join(
            f"{_percent(own[key])} {_interval(own[f'{key}_ci95'])} {label}" for key, label in labels.items()
        )
        console.print(
            f"{words}: {own['attack']}\n  {own['attacked']} attacked: {rates}; paper {_percent(found['published'][name])}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for change in found["changes"]:
        console.print(f"unlike the original: {change}", highlight=False, soft_wrap=True)
    console.print(f"{out / f'table2-{row}.json'}", highlight=False, soft_wrap=True)


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
        from cannonade.experiments.strength import best_points, cells_of, find_study, gains, write_study

        found = find_study(name, scale, defense)
        cells = cells_of(found, eps=eps, target=target, seed=seed)
        plans = assemble(
            [cell.settings for cell in cells], model=model, weights=weights, data=data, limit=limit or found.limit,
            batch=batch, chunk=chunk, device=device, restrict=restrict, stop=stop,
        )  # fmt: skip
        by_cell = dict(zip(cells, plans, strict=True))
        run_cells(by_cell, out, "resume" if resume else "new", Limits())
        points = best_points(found, by_cell, out)
        _say(found.title)
        for point in points:
            paper = "" if point.published is None else f"; paper {_percent(point.published)}"
            _say(
                f"{point.defense}, {point.goal}, PGD-{point.steps} x EOT-{point.samples}, step {point.step_size}: "
                f"{_percent(point.summary['success_rate'])} {_interval(point.summary['success_rate_ci95'])} of "
                f"{point.summary['attacked']}{paper}"
            )
        for gain in gains(points):
            _say(
                f"{gain.defense}, {gain.goal}, k·m = {gain.strength}: EOT-{gain.with_eot[1]} {gain.points:+.1f} points, alone "
                f"{gain.only_with}, EOT-1 alone {gain.only_without} of {gain.pairs}, p = {gain.p:.2g}"
            )
        for change in found.changes:
            _say(f"unlike the original: {change}")
        for path in write_study(found, points, name, out):
            _say(str(path))


for _name, _what in (
    ("table1", "Table 1, random rotation"),
    ("figure1", "Figure 1, BaRT's noise injection"),
    ("figure2", "Figure 2, randomised smoothing"),
):
    _register(_name, _what)


def _register_tradeoff(name: str, what: str) -> None:
    """Add the command of one of the studies of fine-tuning."""

    @reproduce.command(name, help=f"{what}: accuracy, invariance and success, untargeted and targeted, at each value.")
    def study(
        model: Model,
        data: Data,
        before: Annotated[Path, typer.Option(help="Weights that were not fine-tuned on the defense.")],
        after: Annotated[
            list[str], typer.Option(help="VALUE=FILE: weights fine-tuned (see finetune) on that value; several times.")
        ],
        out: Out,
        scale: Scale = "full",
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
        from cannonade.errors import InputError
        from cannonade.evaluation.assemble import assemble
        from cannonade.experiments.tradeoff import (
            ALWAYS,
            SCALES,
            STAGES,
            STUDIES,
            cells_of,
            parse_after,
            read_changes,
            write_tradeoff,
        )

        if scale not in SCALES:
            raise InputError(f"scale must be full or small, got {scale!r}")
        found, size, tuned = STUDIES[name], SCALES[scale], dict(parse_after(text) for text in after)
        cells = cells_of(found, size, list(tuned), eps=eps, target=target, seed=seed)

        def evaluate_all(weights: Path, own: "list[Cell]", place: Path) -> None:
            plans = assemble(
                [cell.settings for cell in own], model=model, weights=weights, data=data, limit=limit or size.limit,
                batch=batch, chunk=chunk, device=device, stop=stop,
            )  # fmt: skip
            run_cells(dict(zip(own, plans, strict=True)), place, "resume" if resume else "new", Limits())

        evaluate_all(before, cells, out / "before")
        places = {value: out / f"after-{value}" for value in tuned}
        for value, weights in tuned.items():
            evaluate_all(weights, [cell for cell in cells if dict(cell.choices)["value"] == value], places[value])
        changes = read_changes(cells, out / "before", places)
        _say(found.title)
        for change in changes:
            _say(f"{found.defense.format(change.value)}, {change.goal}")
            for words, key, published in (
                ("benign accuracy", "benign_accuracy", "benign"),
                ("invariance", "invariance", None),
                ("success rate", "success_rate", change.goal),
            ):
                paper = [found.paper(published, stage, change.value) for stage in STAGES] if published else [None, None]
                known = "" if None in paper else f"; paper {_percent(paper[0])} → {_percent(paper[1])}"
                _say(f"  {words}: {_percent(change.before[key])} → {_percent(change.after[key])}{known}")
            _say(
                f"  broken before alone {change.only_before}, after alone {change.only_after} of {change.pairs} attacked "
                f"at both, p = {change.p:.2g}"
            )
        unlike = (*size.changes, *ALWAYS)
        for text in unlike:
            _say(f"unlike the original: {text}")
        for path in write_tradeoff(name, changes, unlike, out):
            _say(str(path))


for _name, _what in (
    ("figure3", "Figure 3, BaRT before and after fine-tuning on it"),
    ("figure4", "Figure 4, randomised smoothing before and after fine-tuning on it"),
):
    _register_tradeoff(_name, _what)


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
