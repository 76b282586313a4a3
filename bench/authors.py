"""The manner of the paper's authors, as it is described there: image by image, with scikit-image; and votes beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cannonade.bench.timing import interleaved
from cannonade.bench.transforms import Step, oracle_steps, run_oracles
from cannonade.defended import DefendedClassifier
from cannonade.defenses import Defense
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.models.pretrained import Pretrained
from cannonade.transforms.base import Transform
from cannonade.voting import Stop, Votes, majority_vote

AGREEMENT = 1e-3  # of the largest logit, between the plain network and the prepared one
PHASE = Phase.BENIGN_VOTE


class Loop:
    """The plain network, which sees one image at a time.

    Args:
        source: as its authors published it.
    """

    def __init__(self, source: Pretrained) -> None:
        self.network = source.module.eval()
        self._mean, self._std = (torch.tensor(tuple(values)).view(3, 1, 1) for values in (source.mean, source.std))

    def logits(self, image: Tensor) -> Tensor:
        """[3, H, W] in [0, 1] to [1, K]."""
        logits: Tensor = self.network(((image - self._mean) / self._std)[None])
        return logits


def steps_of(defense: Transform, draws: Draws, images: Tensor) -> list[list[Step]]:
    """What the oracles are to do to each image [N, 3, H, W], by its own draw."""
    params = defense.sample(draws, images.shape)
    return [oracle_steps(defense, params, row, images.shape) for row in range(len(images))]


def through_oracles(image: Tensor, steps: list[Step]) -> Tensor:
    """One image [3, H, W] through its transforms by scikit-image: the same shape, float32."""
    array = run_oracles(image.permute(1, 2, 0).double().numpy(), steps)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float()


@dataclass(frozen=True)
class Row:
    """One way to vote n times on every image.

    Attributes:
        way: "none", "exact" or "sequential", where ours stops, or "authors' manner".
        seconds: of one image, the median of the rounds. In the authors' manner it is that of the predictions that were timed,
            scaled to n.
        quartiles: the first and the third.
        votes: that an image used, their mean.
        timed: predictions of an image that were made while the clock ran.
        ratio: seconds in the authors' manner over these, the median of the rounds' ratios.
        ratio_interval: see `Ratio`.
        differing: labels other than that of all n votes, over all images; None in the authors' manner.
        agreeing: in the authors' manner, the share of its predictions that are ours of the same draws, noise aside, whose bits
            are not the same; None for ours.
    """

    way: str
    seconds: float
    quartiles: tuple[float, float]
    votes: float
    timed: float
    ratio: float
    ratio_interval: tuple[float, float]
    differing: int | None
    agreeing: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def votes_beside_loop(
    defended: DefendedClassifier,
    loop: Loop,
    images: Tensor,
    ids: Tensor,
    votes: Tensor,
    *,
    stops: Sequence[Stop | None],
    alpha: float,
    timed: int,
    rounds: int,
) -> Iterator[Row]:
    """Time votes of ours and predictions in the authors' manner, in turn, after a look at what both compute.

    Args:
        defended: the classifier behind a program of transforms.
        loop: the same classifier.
        images: [N, 3, H, W] in [0, 1].
        ids: [N], theirs.
        votes: [N, n], all labels in the order of the queries, of the phase `PHASE`.
        stops: rules of ours.
        alpha: of the sequential rule.
        timed: predictions of each image that are timed in the authors' manner, at most n.
        rounds: how often each is timed.

    Raises:
        InputError: the defense is no program, `timed` is out of range, or the two are not the same network.
    """
    n = votes.shape[1]
    defense = check_loop(defended.defense, timed, n)
    with torch.no_grad():
        check_same(defended.classifier(images[:1]), loop.logits(images[0]))
    queries = torch.arange(timed).repeat(len(images))
    rows = torch.arange(len(images)).repeat_interleave(timed)
    draws = Draws(seed=defended.seed, phase=PHASE, images=ids[rows], queries=queries)
    steps = steps_of(defense, draws, images[rows])
    found: dict[Stop | None, Votes] = {}

    def vote(stop: Stop | None) -> None:
        found[stop] = majority_vote(defended, images, n, stop=stop, alpha=alpha, phase=PHASE, ids=ids)

    labels: list[int] = []

    @torch.no_grad()
    def predict() -> None:
        labels[:] = [
            int(loop.logits(through_oracles(images[row], own)).argmax())
            for row, own in zip(rows.tolist(), steps, strict=True)
        ]

    ways: dict[str, Callable[[], object]] = {stop or "none": partial(vote, stop) for stop in stops}
    times = interleaved(ways | {"authors' manner": predict}, rounds)
    full = torch.stack([(votes == label).sum(1) for label in range(defended.num_classes)], 1).argmax(1)
    theirs = times["authors' manner"]
    for stop in stops:
        timing, vote_ = times[stop or "none"], found[stop]
        low, high = timing.quartiles
        ratio = theirs.over(timing, n / timed)
        yield Row(
            way=stop or "none",
            seconds=timing.median / len(images),
            quartiles=(low / len(images), high / len(images)),
            votes=float(vote_.used.double().mean()),
            timed=float(vote_.forwards.double().mean()),
            ratio=ratio.median,
            ratio_interval=ratio.interval,
            differing=int((vote_.labels != full).sum()),
            agreeing=None,
        )
    scale = n / timed / len(images)
    low, high = theirs.quartiles
    same = torch.tensor(labels).view(len(images), timed) == votes[:, :timed]
    yield Row(
        way="authors' manner",
        seconds=theirs.median * scale,
        quartiles=(low * scale, high * scale),
        votes=n,
        timed=timed,
        ratio=1.0,
        ratio_interval=(1.0, 1.0),
        differing=None,
        agreeing=float(same.double().mean()),
    )


def check_loop(defense: Defense, timed: int, n: int) -> BaRT:
    """The defense, where `timed` of n predictions behind it can be made in the authors' manner.

    Raises:
        InputError: they cannot.
    """
    if not isinstance(defense, BaRT):
        raise InputError(f"the authors' manner is that of programs: use bart or bart_gao, got {defense}")
    if not 1 <= timed <= n:
        raise InputError(f"predictions to time must be 1 to {n}, the votes, got {timed}")
    return defense


def check_same(ours: Tensor, theirs: Tensor) -> None:
    """Raises InputError where logits are not those of the same network, but for rounding."""
    apart = float((ours - theirs).abs().max() / ours.abs().max())
    if not apart <= AGREEMENT:
        raise InputError(f"both sides must be the same network, their logits are {apart:.1e} of the largest apart")
