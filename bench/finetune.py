"""`cannonade bench finetune`: images a second of a training on defended images, ours against what a user would write.

Ours decodes in a loader and defends the whole batch on the device. The other side does what torchvision's and scikit-image's
documentation suggests: crops and transforms image by image in the worker processes of a DataLoader. Both train the same network
with the same step. A pass includes starting the workers, as an epoch does, and follows one of its own side.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import default_loader

from cannonade.bench.loader import torchvision_transform
from cannonade.bench.oracles import Image, find
from cannonade.bench.timing import Timing, interleaved
from cannonade.bench.transforms import Step, oracle_steps, run_oracles
from cannonade.classifier import Network
from cannonade.data.loader import open_loader
from cannonade.data.sources import Source
from cannonade.data.views import Augmentation, Feed
from cannonade.defenses import build_transform
from cannonade.defenses.bart import BaRT
from cannonade.errors import InputError
from cannonade.models import untrained
from cannonade.training.layout import lay_out
from cannonade.transforms.base import Params, Transform
from cannonade.transforms.noise import NoiseInjection, Smoothing

# Median over images of the mean difference without noise, in units of [0, 1], beyond which the sides do not do the same.
# Single images may differ by more: a step that rounds or thresholds makes a visible difference of an invisible one.
TOLERANCE = 0.01

Learn = Callable[[Tensor, Tensor], object]
Pass = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Row:
    """Images a second behind one defense.

    Attributes:
        defense: its call.
        model: whether the network was trained, or the images were only made.
        ours, theirs: medians over the rounds.
        ours_quartiles, theirs_quartiles: the first and the third.
        ratio: ours / theirs, the median of the rounds' ratios.
        ratio_interval: see `Ratio`.
    """

    defense: str
    model: bool
    ours: float
    ours_quartiles: tuple[float, float]
    theirs: float
    theirs_quartiles: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images that are cropped and defended one by one.

    Args:
        source: of image files.
        feed: with the size, and the augmentation's laws.
        defense: whose parameters are drawn beforehand, so that drawing costs nothing here.

    Raises:
        InputError: there is nothing to compare it with.
    """

    def __init__(self, source: Source, feed: Feed, defense: Transform) -> None:
        self._items, self._defense = source.items, defense
        self._crop = torchvision_transform(feed.size, feed.augmentation)
        ids = torch.tensor([item.id for item in source.items])
        shape = torch.Size((len(ids), 3, *feed.size))
        params = defense.sample(feed.draws(ids).part(1), shape)
        self.steps: list[list[Step]] = [oracle_steps(defense, params, row, shape) for row in range(len(ids))]
        for name in {name for steps in self.steps for name, _ in steps} - {Smoothing.name, NoiseInjection.name}:
            if find(name) is None:
                raise InputError(f"the defense must be one that scikit-image has too, {name} has no oracle")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self._items[index]
        image = self._crop(default_loader(item.name))
        return self.defended(image, index), item.label

    def defended(self, image: Tensor, index: int) -> Tensor:
        """One image [3, H, W] behind the defense, with the parameters of its place."""
        array: Image = image.permute(1, 2, 0).double().numpy()
        if isinstance(self._defense, Smoothing):
            noise = np.random.default_rng().normal(self._defense.mean, self._defense.sigma, array.shape)
            array = array + noise
        else:
            array = run_oracles(array, self.steps[index])
        return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float()


class Learner:
    """A step of AdamW on a network with random weights, which both sides take.

    Args:
        model: its name.
        classes: number of logits.
    """

    def __init__(self, model: str, classes: int) -> None:
        source = untrained(model, classes)
        self._network = Network(source.module, source.mean, source.std)
        self._network.channels_last = lay_out(source.module)
        self._optimiser = torch.optim.AdamW(source.module.parameters(), lr=1e-3, weight_decay=1e-2)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Learn from images [N, 3, H, W], defended already, and their labels [N]."""
        cross_entropy(self._network(images), labels).backward()
        self._optimiser.step()
        self._optimiser.zero_grad()


def check(source: Source, size: tuple[int, int], defense: Transform) -> float | None:
    """How far the sides are apart, but for their noise, on the same images and parameters.

    Random noise, which each side draws by its own generator, is left out of both.

    Returns:
        The median of the images' mean differences, in units of [0, 1]; None where there is nothing but noise.

    Raises:
        InputError: it is more than rounding explains, so that a comparison of speeds would show nothing.
    """
    images = source.load(source.items, size)
    ids = torch.tensor([item.id for item in source.items])
    params = defense.sample(Feed(size=size, batch=1).draws(ids).part(1), images.shape)
    apart = []
    for row, image in enumerate(images):
        steps = [step for step in oracle_steps(defense, params, row, images.shape) if find(step[0]) is not None]
        if steps:
            theirs = run_oracles(image.permute(1, 2, 0).double().numpy(), steps)
            ours = _without_noise(defense, params, row, images)
            apart.append(float((ours.permute(1, 2, 0) - torch.from_numpy(theirs)).abs().mean()))
    if not apart:
        return None
    middle = float(np.median(apart))
    if middle > TOLERANCE:
        raise InputError(f"{defense} must do the same on both sides, to {TOLERANCE}, but they are {middle:.2g} apart")
    return middle


def _without_noise(defense: Transform, params: Params, row: int, images: Tensor) -> Tensor:
    """One image behind those of the defense's transforms that have an oracle."""
    one = {name: value[[row]] for name, value in params.items()}
    steps = defense.program(params, row, images.shape) if isinstance(defense, BaRT) else [(defense, one)]
    image = images[[row]]
    with torch.no_grad():
        for member, own in steps:
            if find(member.name) is not None:
                image = member.transform(image, own).clamp(0, 1)
    return image[0]


def measure(
    source: Source, size: tuple[int, int], defense: str, *, model: str, batch: int, workers: int, rounds: int
) -> Iterator[Row]:
    """Train behind a defense and time it, the sides in turn; then the same without the network.

    Args:
        source: image files whose labels are 0 … K−1.
        size: (H, W) of the images.
        defense: its call.
        model: name of a network.
        batch: images of a step.
        workers: of each side's loader.
        rounds: passes over the source that are timed of each side.
    """
    part = build_transform(defense)
    feed = Feed(size=size, batch=batch, shuffle=True, augmentation=Augmentation())
    passes = {"ours": _ours(source, feed, part, workers), "theirs": _theirs(source, feed, part, workers)}
    learner = Learner(model, 1 + max(item.label for item in source.items))
    for learn in (learner, None):
        # The other side forks its workers; without a network that shows.
        runs = {name: _run(one, len(source), learn) for name, one in passes.items()}
        timed = interleaved(runs, rounds, settle=learn is None)
        (ours, ours_quartiles), (theirs, theirs_quartiles) = (_speed(timed[name], len(source)) for name in passes)
        ratio = timed["theirs"].over(timed["ours"])
        yield Row(
            defense, learn is not None, ours, ours_quartiles, theirs, theirs_quartiles, ratio.median, ratio.interval
        )


def _ours(source: Source, feed: Feed, defense: Transform, workers: int) -> Pass:
    def one() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in open_loader(source, feed, workers=workers):
            with torch.no_grad():
                images = defense(batch.images, feed.draws(batch.ids).part(1))
            yield images, batch.labels

    return one


def _theirs(source: Source, feed: Feed, defense: Transform, workers: int) -> Pass:
    images = PerImage(source, feed, defense)
    loader = DataLoader(images, batch_size=feed.batch, shuffle=True, num_workers=workers)
    return lambda: iter(loader)


def _run(one: Pass, expected: int, learn: Learn | None) -> Callable[[], None]:
    def run() -> None:
        count = 0
        for images, labels in one():
            count += len(images)
            if learn is not None:
                learn(images, labels)
        if count != expected:
            raise InputError(f"every image must come once, expected {expected}, got {count}")

    return run


def _speed(timing: Timing, images: int) -> tuple[float, tuple[float, float]]:
    low, high = timing.quartiles
    return images / timing.median, (images / high, images / low)
