"""How the targets of a targeted attack are chosen, where they are not given image by image."""

from typing import Literal

import torch
from torch import Tensor

from cannonade.attacks.forwards import predict
from cannonade.chunking import Chunk, resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError

Target = int | Literal["least_likely", "random"]

LEAST_LIKELY_SAMPLES = 8
_SITE = 63  # of the start phase, where random starts use the first sites


def parse_target(text: str) -> Target:
    """A target as the command line names it: a class, `least_likely` or `random`.

    Raises:
        InputError: it is none of these.
    """
    if text == "least_likely":
        return "least_likely"
    if text == "random":
        return "random"
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"target must be a class number, 'least_likely' or 'random', got {text!r}") from error


def choose_targets(
    target: Target, defended: DefendedClassifier, images: Tensor, labels: Tensor, ids: Tensor, chunk: Chunk = "auto"
) -> Tensor:
    """A target for each image. It may be the image's label, unless it is random.

    Args:
        target: the same class for all; "least_likely", the class of the least mean probability over
            `LEAST_LIKELY_SAMPLES` draws of the selection phase; "random", any class but the label with equal probability.
        defended: the classifier under attack.
        images: [N, 3, H, W] in [0, 1].
        labels: [N] int64, the true labels.
        ids: [N] int64, each image's index in its data set.
        chunk: rows of one pass, for "least_likely".

    Returns:
        [N] int64.

    Raises:
        InputError: the target is no class, or there is only one class.
    """
    classes = defended.num_classes
    if target == "least_likely":
        return mean_probabilities(defended, images, ids, chunk).argmin(1)
    if target == "random":
        return random_targets(labels, classes, defended.seed, ids)
    check_target(target, classes)
    return torch.full_like(labels, target)


def mean_probabilities(defended: DefendedClassifier, images: Tensor, ids: Tensor, chunk: Chunk = "auto") -> Tensor:
    """Mean over `LEAST_LIKELY_SAMPLES` draws of the selection phase: [N, K].

    Args:
        defended: the classifier under attack.
        images: [N, 3, H, W] in [0, 1].
        ids: [N] int64, each image's index in its data set.
        chunk: rows of one pass.
    """
    if not len(images):
        return images.new_zeros(0, defended.num_classes)
    draws = Draws(seed=defended.seed, phase=Phase.SELECTION, images=ids, queries=torch.zeros_like(ids))
    rows = resolve_chunk(chunk, defended, images, len(images) * LEAST_LIKELY_SAMPLES)
    return predict(defended, images, draws, LEAST_LIKELY_SAMPLES, rows).probabilities()


def check_target(target: Target, classes: int) -> None:
    """Raise InputError unless there is such a target among so many classes."""
    if target == "least_likely" or target == "random":
        if classes < 2:
            raise InputError(f"a target needs at least two classes, got {classes}")
    elif not 0 <= target < classes:
        raise InputError(f"target must be one of the model's classes, 0 … {classes - 1}, got {target}")


def random_targets(labels: Tensor, classes: int, seed: int, ids: Tensor) -> Tensor:
    """Any class but the label, with equal probability: [N] int64.

    Args:
        labels: [N] int64.
        classes: K ≥ 2.
        seed: of the run.
        ids: [N] int64, each image's index in its data set, which decides its target.
    """
    check_target("random", classes)
    draws = Draws(seed=seed, phase=Phase.START, images=ids, queries=torch.zeros_like(ids))
    others = draws.site(_SITE).integers(0, classes - 2)
    return others + (others >= labels)
