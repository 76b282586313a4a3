"""`cannonade bench transforms`: every BaRT transform against its oracle, for agreement first and then for speed.

Ours runs the whole batch in this process; the oracle runs image by image in two worker processes, which is what a user would
do without this package.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cannonade.bench.oracles import Image, find
from cannonade.bench.parity import Parity, noisy, parity
from cannonade.bench.timing import interleaved, peak_growth
from cannonade.defenses.bart import BaRT, BartGao
from cannonade.draws import Draws, Phase
from cannonade.kernels import native
from cannonade.transforms import Transform
from cannonade.transforms.noise import MODES

WORKERS = 2


@dataclass(frozen=True)
class Row:
    """What was measured of one transform, in milliseconds an image.

    Attributes:
        name: of the transform.
        clean, noisy: agreement with the oracle on photos and on photos with noise; None where agreement is of distributions.
        tolerance: of the mean difference.
        forward, backward: ours, and ours with the gradient.
        reference: both by PyTorch, without native code.
        oracle: the oracle's, two processes.
        ratio: oracle / forward, the median of the rounds' ratios.
        ratio_interval: see `Ratio`.
        memory: peak growth over forward and backward, in sizes of the input batch.
    """

    name: str
    clean: Parity | None
    noisy: Parity | None
    tolerance: float | None
    forward: float
    backward: float
    reference: tuple[float, float]
    oracle: float
    ratio: float
    ratio_interval: tuple[float, float]
    memory: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    photos: Tensor, names: list[str] | None = None, *, batch: int = 32, draws: int = 8, rounds: int = 3
) -> Iterator[Row]:
    """Check and time transforms.

    Args:
        photos: [N, 3, H, W] in [0, 1]; parity uses them all, timing repeats them up to `batch`.
        names: of transforms; by default BaRT's 25, then bart and bart_gao.
        batch: images of one timed call.
        draws: sets of parameters per image in the comparison with the oracle; 0 skips it.
        rounds: how often each side is timed.
    """
    cases: dict[str, Transform] = {member.name: member for member in BaRT().members}
    cases |= {"bart": BaRT(k=5), "bart_gao": BartGao(k=6, backward="own")}
    images = photos.repeat(-(-batch // len(photos)), 1, 1, 1)[:batch]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for name in names or cases:
            yield _measure(name, cases[name], photos, images, draws, rounds, pool)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _measure(
    name: str, transform: Transform, photos: Tensor, images: Tensor, draws: int, rounds: int, pool: ProcessPoolExecutor
) -> Row:
    oracle = find(name)
    compared: list[Parity | None] = [None, None]
    if oracle is not None and draws:
        compared = [parity(transform, oracle, batch, draws) for batch in (photos, noisy(photos))]
        worst = max(result.mean for result in compared if result is not None)
        if worst > oracle.tolerance:
            raise ValueError(
                f"{name} differs from its oracle by {worst:.2g}, more than {oracle.tolerance:.2g}: not timed"
            )
    ids = torch.arange(len(images))
    streams = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    tasks = list(_tasks(transform, transform.sample(streams, images.shape), images))
    backward = gradient_of(transform, images)

    def forward() -> None:
        with torch.no_grad():
            transform(images, streams)

    def on_torch(case: Callable[[], None]) -> None:
        with without_native_code():
            case()

    sides: dict[str, Callable[[], object]] = {
        "forward": forward,
        "backward": backward,
        "forward by PyTorch": lambda: on_torch(forward),
        "backward by PyTorch": lambda: on_torch(backward),
        "oracle": lambda: list(pool.map(_run, tasks, chunksize=max(1, len(tasks) // (4 * WORKERS)))),
    }
    timed = interleaved(sides, rounds)
    growth = peak_growth(backward)
    ours, theirs = timed["forward"], timed["oracle"]
    ratio = theirs.over(ours)
    per_image = 1e3 / len(images)
    return Row(
        name=name,
        clean=compared[0],
        noisy=compared[1],
        tolerance=None if oracle is None else oracle.tolerance,
        forward=ours.median * per_image,
        backward=timed["backward"].median * per_image,
        reference=(
            timed["forward by PyTorch"].median * per_image,
            timed["backward by PyTorch"].median * per_image,
        ),
        oracle=theirs.median * per_image,
        ratio=ratio.median,
        ratio_interval=ratio.interval,
        memory=None if growth is None else growth / (images.numel() * images.element_size()),
    )


def gradient_of(transform: Transform, images: Tensor) -> Callable[[], None]:
    """What draws a transform for each image [N, 3, H, W], anew at each call, applies it, and goes back from a sum."""
    streams, weights = successive_draws(len(images)), torch.ones_like(images)

    def work() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(transform(leaf, next(streams)), leaf, weights)

    return work


def successive_draws(count: int) -> Iterator[Draws]:
    """Those of an attack's steps on `count` images: programs of others at each step, as costs depend on which they are."""
    ids = torch.arange(count)
    for step in itertools.count():
        yield Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.full_like(ids, step))


@contextmanager
def without_native_code() -> Iterator[None]:
    """As if the package had been installed without a compiler."""
    found = native.available
    native.available = lambda: False
    try:
        yield
    finally:
        native.available = found


def expected_cost(rows: Iterable[Row], k: int = 5) -> tuple[float, float] | None:
    """What BaRT(k) costs by the sum of its parts, Σ p·ms an image, forward and with the gradient.

    Returns:
        None where a part was not measured.
    """
    measured = {row.name: row for row in rows}
    program = BaRT(k=k)
    shares = {member.name: share for member, share in zip(program.members, program.probabilities, strict=True)}
    if not shares.keys() <= measured.keys():
        return None
    forward, backward = (
        sum(share * getattr(measured[name], side) for name, share in shares.items()) for side in ("forward", "backward")
    )
    return forward, backward


def mean_ratio(rows: Iterable[Row]) -> float | None:
    """The geometric mean of oracle over ours, forward, over single transforms; None where there are none."""
    ratios = [row.ratio for row in rows if row.name not in ("bart", "bart_gao")]
    return geometric_mean(ratios) if ratios else None


Step = tuple[str, dict[str, Any]]


def _tasks(transform: Transform, params: Mapping[str, Tensor], images: Tensor) -> Iterator[tuple[Image, list[Step]]]:
    """For every image, the steps that the oracles are to take."""
    arrays = images.permute(0, 2, 3, 1).double().numpy()
    for row, array in enumerate(arrays):
        yield array, oracle_steps(transform, params, row, images.shape)


def oracle_steps(transform: Transform, params: Mapping[str, Tensor], row: int, shape: torch.Size) -> list[Step]:
    """What the oracles are to do to one image: the names of transforms, each with its parameters."""
    if isinstance(transform, BaRT):
        return [(member.name, _numbers(own, 0)) for member, own in transform.program(params, row, shape)]
    return [(transform.name, _numbers(params, row))]


def _numbers(params: Mapping[str, Tensor], row: int) -> dict[str, Any]:
    return {key: value[row].numpy() for key, value in params.items()}


def _run(task: tuple[Image, list[Step]]) -> Image:
    return run_oracles(*task)


def run_oracles(image: Image, steps: list[Step]) -> Image:
    """One image through its oracles, in a worker process."""
    for name, params in steps:
        oracle = find(name)
        image = np.clip(_random_noise(image, params) if oracle is None else oracle.function(image, params), 0, 1)
    return image


def _random_noise(image: Image, params: Mapping[str, Any]) -> Image:
    """Noise has no oracle for its bits; its cost is that of scikit-image's own."""
    from skimage.util import random_noise

    mode = MODES[int(params["mode"])]
    settings = {} if mode == "poisson" else {"var": 0.01} if mode in ("gaussian", "speckle") else {"amount": 0.05}
    out: Image = random_noise(image, mode=mode, rng=int(params["stream"][2]), **settings)
    return out
