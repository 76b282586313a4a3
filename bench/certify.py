"""`cannonade bench certify`: certificates at a radius, by a sequential test against all n predictions, on the same images.

Both use the same predictions in the same order. They choose the same class; the sequential test pays for being allowed to stop,
so that of images near the border it may certify fewer.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cannonade.bench.timing import Ratio, Timing, interleaved
from cannonade.certification import ABSTAIN, Certificates, certify
from cannonade.chunking import resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError


@dataclass(frozen=True)
class Row:
    """One way to certify.

    Attributes:
        rule: "fixed", all n predictions and Clopper and Pearson's bound, or "sequential".
        milliseconds: of an image, the median of the rounds.
        quartiles: the first and the third.
        predictions: of an image, those that chose its class included.
        certified: share of the images that are certified at the radius.
    """

    rule: str
    milliseconds: float
    quartiles: tuple[float, float]
    predictions: float
    certified: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Both ways on the same images.

    Attributes:
        rows: fixed, then sequential.
        differing: images that one certifies at the radius and the other does not.
        ratio: fixed over sequential, of the seconds.
    """

    rows: tuple[Row, Row]
    differing: int
    ratio: Ratio


def compare(
    defended: DefendedClassifier,
    images: Tensor,
    *,
    radius: float,
    n0: int,
    n: int,
    alpha: float,
    ids: Tensor,
    rounds: int = 3,
) -> Comparison:
    """Certify both ways, compare what they decide, and time them in turn.

    Args:
        defended: a classifier behind smoothing.
        images: [N, 3, H, W] in [0, 1], N ≥ 1.
        radius: asked for, in L2 and pixel units of [0, 1].
        n0: predictions that choose the class.
        n: predictions that bound its probability, at most.
        alpha: probability of a wrong certificate, for each image.
        ids: [N] int64, each image's index in its data set.
        rounds: how often each is timed.

    Raises:
        InputError: rounds is below 1, or the two choose other classes, so that they do not see the same predictions.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    rows = resolve_chunk("auto", defended, images, len(images) * n)

    def run(asked: float | None) -> Certificates:
        return certify(defended, images, n0=n0, n=n, alpha=alpha, radius=asked, ids=ids, chunk=rows)

    fixed, sequential = run(None), run(radius)
    if not torch.equal(fixed.selected, sequential.selected):
        raise InputError("both ways must choose the same classes, theirs differ: their predictions are not the same")
    decided = fixed.radius >= radius, sequential.labels != ABSTAIN
    timed = interleaved({"fixed": lambda: run(None), "sequential": lambda: run(radius)}, rounds, warmup=0)
    first, second = (
        _row(rule, timed[rule], found, proved)
        for rule, found, proved in zip(timed, (fixed, sequential), decided, strict=True)
    )
    differing = int((decided[0] != decided[1]).sum())
    return Comparison((first, second), differing, timed["fixed"].over(timed["sequential"]))


def _row(rule: str, timing: Timing, found: Certificates, proved: Tensor) -> Row:
    scale = 1000 / len(proved)
    low, high = timing.quartiles
    predictions, certified = float(found.forwards.double().mean()), float(proved.double().mean())
    return Row(rule, scale * timing.median, (scale * low, scale * high), predictions, certified)
