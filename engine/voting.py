"""Majority vote: the answer of a stochastic classifier over n predictions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.checks import check_images
from cannonade.chunking import Chunk, resolve_chunk, with_retreat
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError


@dataclass(frozen=True)
class Votes:
    """The outcome of a vote.

    Attributes:
        counts: [N, K] int64, votes for each class.
        labels: [N] int64, the class with most votes, the smaller one on ties.
        forwards: predictions that each image took.
        chunk: rows of one pass, smaller than asked for after a retreat for memory.
    """

    counts: Tensor
    labels: Tensor
    forwards: int
    chunk: int


def majority_vote(
    defended: DefendedClassifier,
    images: Tensor,
    n: int,
    *,
    phase: Phase = Phase.FINAL_VOTE,
    ids: Tensor | None = None,
    chunk: Chunk = "auto",
) -> Votes:
    """Predict every image n times, each with a draw of its own, and count (paper, section 3 and appendix A.1).

    Args:
        defended: the stochastic classifier.
        images: [N, 3, H, W] in [0, 1].
        n: predictions per image.
        phase: what the vote is for; votes of different phases share no draws.
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        chunk: rows of one pass, or "auto".

    Raises:
        InputError: n < 1, bad images, or logits that are not finite.
    """
    if n < 1:
        raise InputError(f"votes must be at least 1, got {n}")
    ids = check_images(images, None, ids)
    if len(images) == 0:
        counts = torch.zeros(0, defended.num_classes, dtype=torch.int64, device=images.device)
        return Votes(counts, counts.sum(1), n, 0)
    draws = Draws(seed=defended.seed, phase=phase, images=ids, queries=torch.zeros_like(ids))
    size = resolve_chunk(chunk, defended, images, len(images) * n)
    counts, used = with_retreat(lambda rows: _count(defended, images, n, draws, rows), size)
    return Votes(counts, counts.argmax(1), n, used)


@torch.no_grad()
def _count(defended: DefendedClassifier, images: Tensor, n: int, draws: Draws, chunk: int) -> Tensor:
    """Row r of the N·n predictions is draw r // N of image r % N."""
    counts = torch.zeros(len(images), defended.num_classes, dtype=torch.int64, device=images.device)
    for rows in torch.arange(len(images) * n, device=images.device).split(chunk):
        own = rows % len(images)
        streams = draws[own]
        logits = defended.logits(
            images[own],
            Draws(seed=draws.seed, phase=draws.phase, images=streams.images, queries=rows // len(images)),
        )
        if not logits.isfinite().all():
            bad = own[~logits.isfinite().all(1)]
            raise InputError(
                f"a classifier must return finite logits, got NaN or infinity for image {int(draws.images[bad[0]])}"
            )
        counts.index_put_((own, logits.argmax(1)), torch.ones_like(own), accumulate=True)
    return counts
