"""The command line."""

import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cannonade.errors import InputError

if TYPE_CHECKING:
    from cannonade.evaluation.run import Plan

# Torch takes seconds to import, so commands import what they need themselves and `--help` answers at once.

app = typer.Typer(
    help="Attacks on stochastic pre-processing defenses of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
)
console = Console()

DEMO_DEFENSES = ("rotation(degrees=90)", "noise_injection", "smoothing(sigma=0.1)")
DEMO_ATTACK = "pgd(eps=8/255, steps=10, step_size=2/255)"


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, package.module:function, …")
    ],
    data: Annotated[
        str, typer.Option(help="'samples', a folder of class/image files, or an .npz with images and labels.")
    ],
    defense: Annotated[str, typer.Option(help="Such as 'rotation(degrees=90)'.")],
    attack: Annotated[str, typer.Option(help="Such as 'pgd(eps=8/255, steps=50, step_size=1/255)'.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    eot: Annotated[int, typer.Option(help="m, draws averaged at each step.")] = 1,
    average: Annotated[str, typer.Option(help="What EOT averages: loss, logits or probs.")] = "loss",
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 500,
    target: Annotated[int | None, typer.Option(help="Class of a targeted attack; untargeted without.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = None,
    batch: Annotated[int, typer.Option(help="Images of one batch.")] = 32,
    chunk: Annotated[str, typer.Option(help="Rows of one pass through the model, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of the classifier: float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run directory; a new one under runs/ by default.")] = None,
) -> None:
    """Attack a defended classifier and judge it by majority vote."""
    from cannonade.evaluation.assemble import assemble
    from cannonade.evaluation.report import write_report

    plan = assemble(
        model=model, weights=weights, data=data, defense=defense, attack=attack, samples=eot, average=average, votes=votes,
        target=target, limit=limit, batch=batch, chunk=chunk, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    directory = out or _new_directory()
    rows = [_run_with_progress(plan, directory)]
    page = write_report([directory], directory)
    _print_table(rows)
    console.print(f"run directory: {directory}\nreport: {page}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Directory for the runs; a new one under runs/ by default.")] = None,
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 20,
) -> None:
    """The whole flow on 20 ImageNet photos with a real classifier: three defenses, PGD, majority vote, one report."""
    from cannonade.evaluation.assemble import assemble
    from cannonade.evaluation.report import write_report

    parent = out or _new_directory()
    directories, rows = [], []
    for defense in DEMO_DEFENSES:
        plan = assemble(model="efficientnet_lite0", data="samples", defense=defense, attack=DEMO_ATTACK, votes=votes)
        directories.append(parent / defense.partition("(")[0])
        rows.append(_run_with_progress(plan, directories[-1]))
    page = write_report(directories, parent)
    _print_table(rows)
    console.print(f"report with pictures: {page}", highlight=False, soft_wrap=True)


@app.command()
def transforms(
    image: Annotated[Path | None, typer.Option(help="A photo; by default one of the samples.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for transforms.png and transforms.html.")] = Path(
        "runs/transforms"
    ),
    side: Annotated[int, typer.Option(help="The photo is resized and cropped to a square of this side.")] = 224,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """A contact sheet: every transform on one photo, three draws each, with parameters and gradient norms."""
    from cannonade.data.sources import Item, Source, open_source
    from cannonade.evaluation.contact_sheet import write_contact_sheet

    if side < 16:
        raise InputError(f"side must be at least 16, got {side}")
    source = Source([Item(0, 0, str(image))]) if image else open_source("samples")
    for path in write_contact_sheet(source.load(source.items[:1], (side, side))[0], out, seed):
        console.print(str(path), highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: bad input is answered with one line and status 2, never a traceback."""
    sys.path.append(str(Path.cwd()))  # so that package.module:function finds a module of the user's own
    try:
        app()
    except (InputError, OSError) as error:
        Console(stderr=True).print(f"cannonade: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _new_directory() -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = itertools.chain((stamp,), (f"{stamp}-{number}" for number in itertools.count(2)))
    return next(Path("runs") / name for name in names if not (Path("runs") / name).exists())


def _run_with_progress(plan: "Plan", directory: Path) -> tuple[str, dict[str, Any]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cannonade.evaluation.run import run

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("success {task.fields[success]}  left"),
        TimeRemainingColumn(),
    )
    name = plan.calls["defense"]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=len(plan.source), success="…")
        summary = run(
            plan,
            directory,
            lambda done, so_far: progress.update(task, completed=done, success=_percent(so_far["success_rate"])),
        )
    return name, summary


def _print_table(rows: list[tuple[str, dict[str, Any]]]) -> None:
    from rich.table import Table

    table = Table(
        "defense", "attacked", "benign accuracy", "success rate", "null rate", "seconds", box=None, pad_edge=False
    )
    for name, summary in rows:
        bounds = summary["success_rate_ci95"]
        interval = "" if bounds is None else f" [{100 * bounds[0]:.0f}–{100 * bounds[1]:.0f}]"
        table.add_row(
            name,
            f"{summary['attacked']}/{summary['images']}",
            _percent(summary["benign_accuracy"]),
            _percent(summary["success_rate"]) + interval,
            _percent(summary["null_success_rate"]),
            f"{summary['seconds']:.1f}",
        )
    console.print(table)
    for name, summary in rows:
        for kind in ("nonfinite", "zero"):
            if summary[f"{kind}_gradient_images"]:
                console.print(f"warning: {name}: {kind} gradients on {summary[f'{kind}_gradient_images']} images")


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"
