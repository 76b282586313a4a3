"""`cannonade finetune`: train a classifier on the images that its defense makes."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cannonade.cli.app import app, console, new_directory
from cannonade.cli.options import Device
from cannonade.cli.progress import interruptible, percent
from cannonade.errors import InputError

if TYPE_CHECKING:
    from cannonade.training.task import Task
    from cannonade.training.train import Rhythm


@app.command()
def finetune(
    model: Annotated[
        str,
        typer.Option(help="resnet34, efficientnet_lite0, cifar_resnet20, 'resnet_tiny(width=32)', pkg.mod:function, …"),
    ],
    data: Annotated[str, typer.Option(help="Training images: a folder or .zip of class/image files, an .npz, …")],
    val: Annotated[str, typer.Option(help="Validation images of the same classes.")],
    defense: Annotated[
        str, typer.Option(help="Such as 'bart_gao(k=3)', drawn anew for each image and epoch.")
    ] = "identity",
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from; those it is published with by default.")
    ] = None,
    scratch: Annotated[bool, typer.Option("--scratch/--pretrained", help="Start from random weights.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 1,
    batch: Annotated[int, typer.Option(help="Images of one step, over all processes.")] = 256,
    accumulate: Annotated[int, typer.Option(help="Passes of one step, where a batch does not fit the memory.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the top of the cosine.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 1e-2,
    warmup: Annotated[int, typer.Option(help="Steps in which the learning rate rises.")] = 0,
    ema: Annotated[
        float, typer.Option(help="Decay of a mean over weights that is evaluated and saved; 0 for none.")
    ] = 0.0,
    freeze: Annotated[bool, typer.Option(help="Train the last layer only.")] = False,
    augment: Annotated[bool, typer.Option(help="Random crops and mirrors, by (image, epoch).")] = True,
    least_crop: Annotated[float, typer.Option(help="The smallest crop's share of the area.")] = 0.35,
    size: Annotated[int | None, typer.Option(help="Side of the images; the model's own by default.")] = None,
    precision: Annotated[str, typer.Option(help="Of the network: float32, bfloat16 or float16.")] = "float32",
    channels_last: Annotated[bool, typer.Option(help="Keep weights and activations in that layout.")] = True,
    compile: Annotated[bool, typer.Option(help="torch.compile the network.")] = False,
    votes: Annotated[int, typer.Option(help="n of the majority vote after an epoch.")] = 10,
    val_every: Annotated[int, typer.Option(help="Epochs from one validation to the next.")] = 1,
    limit: Annotated[int | None, typer.Option(help="At most so many training images, spread evenly.")] = None,
    val_limit: Annotated[int | None, typer.Option(help="At most so many validation images, spread evenly.")] = None,
    seed: Annotated[int, typer.Option(help="Of order, crops, draws, dropout and new weights.")] = 0,
    device: Device = "auto",
    loader: Annotated[str, typer.Option(help="dali, portable or auto.")] = "auto",
    workers: Annotated[int, typer.Option(help="Threads or processes of the loader.")] = 2,
    log_every: Annotated[int, typer.Option(help="Steps from one line of the log to the next.")] = 10,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps from one checkpoint to the next within an epoch; one an epoch without.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the training; a new one under runs/ by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the training in --out, which must have the same settings.")
    ] = False,
) -> None:
    """Train a classifier behind its defense; after each epoch, how good it is with the defense and without.

    Killed at any moment, it goes on with --resume from its last checkpoint, on a CPU to the same bits. Interrupted once
    (Ctrl-C), it writes a checkpoint after the step and ends with status 130. Several processes train under torchrun:
    `torchrun --nproc-per-node 8 -m cannonade.cli finetune … --out RUN`. Status 2 is bad input.
    """
    from cannonade.data.views import Augmentation
    from cannonade.training.assemble import assemble
    from cannonade.training.distributed import process_group
    from cannonade.training.recipe import Recipe
    from cannonade.training.train import Rhythm

    recipe = Recipe(
        epochs=epochs, batch=batch, accumulate=accumulate, learning_rate=learning_rate, weight_decay=weight_decay,
        warmup=warmup, precision=precision, channels_last=channels_last, compile=compile, average=ema, freeze=freeze,
        augmentation=Augmentation(scale=(least_crop, 1.0)) if augment else None, votes=votes, validate_every=val_every,
        seed=seed,
    )  # fmt: skip
    rhythm = Rhythm(log_every, checkpoint_every)
    if resume and out is None:
        raise InputError("to resume a training takes its directory: give --out")
    task = assemble(
        model=model, data=data, validation=val, defense=defense, recipe=recipe, weights=weights, scratch=scratch, side=size,
        limit=limit, validation_limit=val_limit, device=device, loader=loader, workers=workers,  # type: ignore[arg-type]
    )  # fmt: skip
    if task.ranks.world > 1 and out is None:
        raise InputError("several processes must be told their common directory: give --out")
    directory = out or new_directory()
    with process_group(task.ranks, task.device):
        finished = _train(task, directory, resume, rhythm)
    if not task.ranks.first:
        return
    if not finished:
        text = f"interrupted: the same command with --out {directory} --resume goes on"
        console.print(text, highlight=False, soft_wrap=True)
        raise typer.Exit(130)
    console.print(f"weights: {directory / 'best.safetensors'}", highlight=False, soft_wrap=True)


def _train(task: "Task", directory: Path, resume: bool, rhythm: "Rhythm") -> bool:
    """Train with a bar on a terminal, and a line an epoch everywhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cannonade.training.train import train

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[state]}"))
    shown = console.is_terminal and task.ranks.first
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown) as progress:
        bar = progress.add_task("training", total=task.recipe.epochs * task.steps, state="")

        def report(record: dict[str, Any]) -> None:
            if record["kind"] == "steps":
                progress.update(bar, completed=record["step"], state=_speed(record))
            else:
                progress.console.print(_line(record), highlight=False, markup=False, soft_wrap=True)

        def notice(text: str) -> None:
            progress.console.print(text.replace("batch", "step"), highlight=False)

        if task.ranks.world > 1:
            return train(task, directory, resume=resume, rhythm=rhythm, report=report)
        with interruptible(notice) as interrupted:
            return train(task, directory, resume=resume, rhythm=rhythm, report=report, stop=interrupted)


def _speed(record: dict[str, Any]) -> str:
    return f"loss {record['loss']:.3f}  {record['images_per_second']:.0f} images/s  {_shares(record['seconds'])}"


def _line(record: dict[str, Any]) -> str:
    """An epoch for people."""
    text = f"{time.strftime('%H:%M:%S')} epoch {record['epoch']}"
    if "loss" in record:
        text += f": loss {record['loss']:.3f}, accuracy {percent(record['accuracy'])}"
        text += f", {record['images']} images in {sum(record['seconds'].values()):.0f} s ({_shares(record['seconds'])})"
    if "validation" in record:
        found = record["validation"]
        text += f"; validation: {percent(found['accuracy'])} by vote, {percent(found['plain_accuracy'])} without the defense, "
        text += f"invariance {percent(found['invariance'])}{', the best so far' if record.get('best') else ''}"
    return text


def _shares(seconds: dict[str, float]) -> str:
    """Where the time went, in percent."""
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in seconds.items())
