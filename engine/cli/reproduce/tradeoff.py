"""`cannonade reproduce figure3` and `figure4`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cannonade.cli.options import Device, Rows, Seed
from cannonade.cli.reproduce.app import (
    Batch,
    Data,
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
    from cannonade.evaluation.grid import Cell


def _register(name: str, what: str) -> None:
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
        attack: Annotated[str | None, typer.Option(help="See evaluate; the scale's own by default.")] = None,
        samples: Annotated[int | None, typer.Option(help="m, draws a step; the scale's own by default.")] = None,
        backward: Annotated[
            str | None,
            typer.Option(help="Through transforms: identity, as the paper's attack and by default, or own gradients."),
        ] = None,
        votes: Votes = None,
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
            SCALES,
            STAGES,
            STUDIES,
            cells_of,
            parse_after,
            read_changes,
            write_tradeoff,
        )
        from cannonade.experiments.unlike import with_own

        if scale not in SCALES:
            raise InputError(f"scale must be full or small, got {scale!r}")
        found, tuned = STUDIES[name], dict(parse_after(text) for text in after)
        size = with_own(
            SCALES[scale], attack=attack, samples=samples, votes=votes, limit=limit, stop=stop, backward=backward
        )
        cells = cells_of(found, size, list(tuned), target=target, seed=seed)

        def evaluate_all(weights: Path, own: "list[Cell]", place: Path) -> int:
            plans = assemble(
                [cell.settings for cell in own], model=model, weights=weights, data=data, limit=size.limit,
                batch=batch, chunk=chunk, device=device, stop=size.stop,
            )  # fmt: skip
            run_cells(dict(zip(own, plans, strict=True)), place, "resume" if resume else "new", Limits())
            return len(plans[0].source)

        images = evaluate_all(before, cells, out / "before")
        places = {value: out / f"after-{value}" for value in tuned}
        for value, weights in tuned.items():
            evaluate_all(weights, [cell for cell in cells if dict(cell.choices)["value"] == value], places[value])
        changes = read_changes(cells, out / "before", places)
        say(found.title)
        for change in changes:
            say(f"{found.defense.format(change.value)}, {change.goal}")
            for words, key, published in (
                ("benign accuracy", "benign_accuracy", "benign"),
                ("invariance", "invariance", None),
                ("success rate", "success_rate", change.goal),
            ):
                paper = [found.paper(published, stage, change.value) for stage in STAGES] if published else [None, None]
                known = "" if None in paper else f"; paper {percent(paper[0])} → {percent(paper[1])}"
                stages = " → ".join(
                    f"{percent(stage[key])} {interval(stage.get(f'{key}_ci95'))}".rstrip()
                    for stage in (change.before, change.after)
                )
                say(f"  {words}: {stages}{known}")
            counts = change.counts
            say(
                f"  broken before alone {counts.only_first}, after alone {counts.only_second} of {counts.pairs} attacked "
                f"at both, p = {counts.p:.2g}"
            )
        unlike = with_own(size, limit=images).changes  # the data may have fewer than the limit
        for text in unlike:
            say(f"unlike the original: {text}")
        for path in write_tradeoff(name, changes, unlike, out):
            say(str(path))


for _name, _what in (
    ("figure3", "Figure 3, BaRT before and after fine-tuning on it"),
    ("figure4", "Figure 4, randomised smoothing before and after fine-tuning on it"),
):
    _register(_name, _what)
