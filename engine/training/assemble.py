"""From the words of the command line to a training."""

import hashlib
from pathlib import Path

import torch

from cannonade.data.loader import Backend
from cannonade.data.sources import check_same_classes, open_source
from cannonade.defenses import build_defense
from cannonade.defenses.model_side import ModelDefense
from cannonade.errors import InputError
from cannonade.evaluation.subject import exact_arithmetic, find_device
from cannonade.training.distributed import ranks_from_environment
from cannonade.training.recipe import Recipe
from cannonade.training.start import starting_point
from cannonade.training.task import Task


def assemble(
    *,
    model: str,
    data: str,
    validation: str,
    defense: str,
    recipe: Recipe,
    weights: Path | None = None,
    scratch: bool = False,
    side: int | None = None,
    limit: int | None = None,
    validation_limit: int | None = None,
    device: str = "auto",
    loader: Backend = "auto",
    workers: int = 2,
) -> Task:
    """Build every part of a training from its name; the cheap parts first, so that a slip of the pen is answered at once.

    Raises:
        InputError: a name, an argument, a file or a device that cannot be used.
    """
    part = build_defense(defense)
    if not part.trainable:
        raise InputError(f"a defense to train behind must change images or activations, got {part.name}")
    if recipe.compile and isinstance(part, ModelDefense):
        raise InputError(f"{part.name} cannot reach into a compiled network: train without --compile")
    ranks = ranks_from_environment()
    recipe.rows(ranks.world)
    if device == "auto" and ranks.world > 1 and torch.cuda.is_available():
        device = f"cuda:{ranks.local}"
    place = find_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    train, judged = open_source(data), open_source(validation)
    classes = check_same_classes(train, judged)
    exact_arithmetic()
    start = starting_point(
        model, weights=weights, scratch=scratch, class_names=train.classes,
        size=None if side is None else (side, side), defense=defense, seed=recipe.seed,
    )  # fmt: skip
    return Task(
        start=start,
        initial="scratch" if scratch else "published" if weights is None else _checksum(weights),
        defense=part,
        train=train.numbered(classes).limited(limit),
        validation=judged.numbered(classes).limited(validation_limit),
        recipe=recipe,
        ranks=ranks,
        device=place,
        loader=loader,
        workers=workers,
    )


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
