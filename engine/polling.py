"""Ask a stochastic classifier about many images at once, with every pass full while there is something left to ask."""

from typing import Protocol

import torch
from torch import Tensor

from cannonade.chunking import Chunk, resolve_chunk, with_retreat
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.backend import carry


class Reading(Protocol):
    """What is made of the predictions, and when there are enough of them."""

    def wanted(self) -> Tensor:
        """[N] int64: predictions that each image is sure to need, or as many as it may take; 0 once it is decided."""

    def read(self, rows: Tensor, logits: Tensor) -> None:
        """Take in predictions.

        Args:
            rows: [R] int64, the image of each prediction, ascending; those of one image in the order of their queries.
            logits: [R, K].
        """


def poll(
    defended: DefendedClassifier,
    images: Tensor,
    ids: Tensor,
    n: int,
    reading: Reading,
    *,
    phase: Phase,
    chunk: Chunk = "auto",
) -> tuple[Tensor, int]:
    """Predict until the reading is content: image i's prediction q is query q of this phase, in whatever pass it falls.

    A pass takes the images in their order, each with as many predictions as it is sure to need, until its rows are used up;
    when an image is decided, the next one takes its place. Only when too few images are left to fill a pass do they get more,
    at most half of what they already took: what was predicted in vain is bounded so, and counted.

    Args:
        defended: the stochastic classifier.
        images: [N, 3, H, W] in [0, 1], N ≥ 1.
        ids: [N] int64, each image's index in its data set.
        n: predictions that an image gets at most.
        reading: what is made of them.
        phase: what they are for.
        chunk: rows of one pass, or "auto".

    Returns:
        [N] int64, the predictions that each image took, and the rows of a pass, fewer than asked for after a retreat.

    Raises:
        InputError: logits that are not finite.
    """
    size = resolve_chunk(chunk, defended, images, len(images) * n)
    ids = ids.cpu()
    asked = torch.zeros_like(ids)
    # Passes are planned on the host, which waits for the device once a pass: to know what is still wanted.
    while len(rows := _next_rows(reading.wanted().cpu(), asked, n, size)):
        draws = Draws(seed=defended.seed, phase=phase, images=ids[rows], queries=asked[rows] + place_of(rows))
        there = carry(rows, images.device)
        logits, size = _predict(defended, images, there, draws, size)
        rows = rows[: len(logits)]
        reading.read(there[: len(logits)], logits)
        asked += torch.bincount(rows, minlength=len(ids))
    return asked.to(images.device), size


@torch.no_grad()
def _predict(defended: DefendedClassifier, images: Tensor, rows: Tensor, draws: Draws, size: int) -> tuple[Tensor, int]:
    """Logits of the rows, or of the first of them where memory allows no more: [R, K], and the size of a pass from now on."""

    def predict(limit: int) -> Tensor:
        return defended.logits(images[rows[:limit]], draws[:limit])

    logits, size = with_retreat(predict, size)
    finite = logits.isfinite().all(1)
    if not finite.all():
        image = int(draws.images[: len(logits)][~finite.cpu()][0])
        raise InputError(f"a classifier must return finite logits, got NaN or infinity for image {image}")
    return logits, size


def _next_rows(wanted: Tensor, asked: Tensor, n: int, size: int) -> Tensor:
    """The images of the next pass, at most `size` rows: what is wanted, then spare rows for what may be."""
    share = _fill(wanted, size)
    spare = size - int(share.sum())
    if spare:
        share += _fill(torch.where(wanted > 0, (n - asked - wanted).minimum(asked // 2), 0), spare)
    return torch.arange(len(share), device=share.device).repeat_interleave(share)


def _fill(wanted: Tensor, size: int) -> Tensor:
    """Give each in turn what it wants until `size` is used up."""
    before = wanted.cumsum(0) - wanted
    return (size - before).clamp(min=0).minimum(wanted)


def place_of(rows: Tensor) -> Tensor:
    """How many rows of the same image stand before each row; the images ascend."""
    return torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)


def turns(rows: Tensor) -> list[Tensor]:
    """The positions of every image's first row, of every second row, and so on; the images ascend."""
    place = place_of(rows)
    return [(place == turn).nonzero()[:, 0] for turn in range(int(place.max()) + 1)] if len(rows) else []
