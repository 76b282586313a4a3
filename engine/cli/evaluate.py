"""`cannonade evaluate`: attack a defended classifier and judge it by majority vote."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cannonade.cli.app import app, console, new_directory
from cannonade.cli.options import Device, Restrict, Rows, Seed, Weights
from cannonade.cli.progress import Limits, print_table, running, say_estimate
from cannonade.errors import InputError

if TYPE_CHECKING:
    from cannonade.evaluation.grid import Cell
    from cannonade.evaluation.plan import Plan
    from cannonade.evaluation.run import Mode
    from cannonade.evaluation.shared_votes import SharedVotes


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
    weights: Weights = None,
    restrict: Restrict = False,
    eot: Annotated[int, typer.Option(help="m, draws averaged at each step.")] = 1,
    average: Annotated[str, typer.Option(help="What EOT averages: loss, logits or probs.")] = "loss",
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 500,
    stop: Annotated[str, typer.Option(help="End votes early: none, exact or sequential.")] = "none",
    alpha: Annotated[float, typer.Option(help="Of the sequential rule: chance of another label than all n.")] = 1e-3,
    target: Annotated[
        str | None, typer.Option(help="Targeted at this class, or least_likely or random; untargeted without.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = None,
    batch: Annotated[int, typer.Option(help="Images of one batch.")] = 32,
    chunk: Rows = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="Of the classifier: float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run directory; a new one under runs/ by default.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Vary attack, defense, eot, average, votes, target, seed or attack.ARGUMENT: eot=1,5,10."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in --out, which must have the same settings.")
    ] = False,
    join: Annotated[
        bool, typer.Option(help="Share the run in --out with other processes that join it; torchrun's always do.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="I/N: the I-th of N parts of the batches; cannonade merge puts them together.")
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after the batch in which they are over.")] = None,
    max_gradients: Annotated[int | None, typer.Option(help="Stop after the batch in which the run reaches it.")] = None,
) -> None:
    """Attack a defended classifier and judge it by majority vote.

    Interrupted once (Ctrl-C), it finishes its batch and ends with status 130, at a limit with status 3; --resume goes on, after
    a kill too, with the same numbers as if nothing had happened. Several processes share a run with --join, or under torchrun:
    each takes the next batch that nobody has, and those of a process that dies. Machines that share no directory each do a
    --shard into one of their own. Status 2 is bad input.

    With --grid, several times for several axes, every combination is a run below --out; a finished one is not run again, and
    benign votes are cast once for all that share them.
    """
    import torch

    from cannonade.evaluation.assemble import assemble
    from cannonade.evaluation.grid import Settings, expand, parse_axis

    join = join or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if (resume or join) and out is None:
        raise InputError("to resume or join a run takes its directory: give --out")
    if join and device == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    base = Settings(defense=defense, attack=attack, eot=eot, average=average, votes=votes, target=target, seed=seed)
    cells = expand([parse_axis(text) for text in grid or ()], base)
    plans = assemble(
        [cell.settings for cell in cells], model=model, weights=weights, data=data, limit=limit, batch=batch, chunk=chunk,
        device=device, restrict=restrict, precision=precision, stop=stop, alpha=alpha,
    )  # fmt: skip
    mode: Mode = "join" if join else "resume" if resume else "new"
    directory, limits = out or new_directory(), Limits(max_seconds, max_gradients)
    part = _parse_shard(shard)
    if grid:
        run_cells(dict(zip(cells, plans, strict=True)), directory, mode, limits, part)
    else:
        _run_alone(plans[0], directory, mode, limits, part)


def _parse_shard(text: str | None) -> tuple[int, int]:
    """(number from 0, of how many) from `2/5`."""
    if text is None:
        return 0, 1
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"shard must be I/N with 1 ≤ I ≤ N, such as 2/5, got {text!r}")
    return int(number) - 1, int(count)


def _run_alone(plan: "Plan", directory: Path, mode: "Mode", limits: Limits, shard: tuple[int, int]) -> None:
    from cannonade.evaluation.report import write_report

    name = plan.calls["defense"]
    say_estimate([(plan, directory)])
    with running(directory, mode, limits, shard) as run_one:
        summary = run_one(name, plan, directory)
    print_table([(name, summary)])
    console.print(f"run directory: {directory}", highlight=False, soft_wrap=True)
    if shard[1] == 1:
        page = write_report([directory], directory, replace=mode != "join")
        console.print(f"report: {page}", highlight=False, soft_wrap=True)


def run_cells(
    plans: "Mapping[Cell, Plan]", directory: Path, mode: "Mode", limits: Limits, shard: tuple[int, int] = (0, 1)
) -> None:
    """Run a grid under progress bars, and print its table and where its files are.

    Args:
        plans: by cell.
        directory: of the grid.
        mode: "new", "resume" or "join".
        limits: of the whole command.
        shard: (i, n), the part of each run's batches.
    """
    from cannonade.evaluation.grid_report import write_grid_report
    from cannonade.evaluation.report import write_report
    from cannonade.evaluation.run_grid import run_grid

    def run_cell(name: str, plan: "Plan", path: Path, shared: "SharedVotes") -> dict[str, Any]:
        summary = run_one(name, plan, path, shared)
        if shard[1] == 1:
            write_report([path], path, replace=mode != "join")
        return summary

    say_estimate((plan, directory / cell.name) for cell, plan in plans.items())
    with running(directory, mode, limits, shard) as run_one:
        summaries = run_grid(plans, directory, mode, run_cell)
    print_table([(cell.text, summary) for cell, summary in summaries.items()], "cell")
    if shard[1] > 1:
        console.print(f"run directories: {directory}", highlight=False, soft_wrap=True)
        return
    page = write_grid_report(list(plans), directory)
    files = f"run directories: {directory}\ntable: {page.with_name('cells.csv')}\nreport: {page}"
    console.print(files, highlight=False, soft_wrap=True)
