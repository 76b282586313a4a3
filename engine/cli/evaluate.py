"""`cannonade evaluate`: attack a defended classifier and judge it by majority vote."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console, new_directory
from cannonade.cli.progress import Limits, print_table, run_with_progress
from cannonade.errors import InputError


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
    restrict: Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")] = False,
    eot: Annotated[int, typer.Option(help="m, draws averaged at each step.")] = 1,
    average: Annotated[str, typer.Option(help="What EOT averages: loss, logits or probs.")] = "loss",
    votes: Annotated[int, typer.Option(help="n, predictions of a majority vote.")] = 500,
    target: Annotated[
        str | None, typer.Option(help="Targeted at this class, or least_likely or random; untargeted without.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = None,
    batch: Annotated[int, typer.Option(help="Images of one batch.")] = 32,
    chunk: Annotated[str, typer.Option(help="Rows of one pass through the model, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of the classifier: float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Run directory; a new one under runs/ by default.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in --out, which must have the same settings.")
    ] = False,
    join: Annotated[
        bool, typer.Option(help="Share the run in --out with other processes that join it; torchrun's always do.")
    ] = False,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after the batch in which they are over.")] = None,
    max_gradients: Annotated[int | None, typer.Option(help="Stop after the batch in which the run reaches it.")] = None,
) -> None:
    """Attack a defended classifier and judge it by majority vote.

    Interrupted once (Ctrl-C), it finishes its batch and ends with status 130, at a limit with status 3; --resume goes on, after
    a kill too, with the same numbers as if nothing had happened. Several processes share a run with --join, or under torchrun:
    each takes the next batch that nobody has, and those of a process that dies. Status 2 is bad input.
    """
    import torch

    from cannonade.evaluation.assemble import assemble
    from cannonade.evaluation.report import write_report

    join = join or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if (resume or join) and out is None:
        raise InputError("to resume or join a run takes its directory: give --out")
    if join and device == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    plan = assemble(
        model=model, weights=weights, data=data, defense=defense, attack=attack, samples=eot, average=average, votes=votes,
        target=target, limit=limit, batch=batch, chunk=chunk, seed=seed, device=device, restrict=restrict, precision=precision,
    )  # fmt: skip
    directory, limits = out or new_directory(), Limits(max_seconds, max_gradients)
    rows = [run_with_progress(plan, directory, "join" if join else "resume" if resume else "new", limits)]
    page = write_report([directory], directory)
    print_table(rows)
    console.print(f"run directory: {directory}\nreport: {page}", highlight=False, soft_wrap=True)
