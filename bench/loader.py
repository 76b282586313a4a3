"""`cannonade bench loader`: images a second of DALI, of the portable loader, and of what a user of torchvision would write,
on the same files; before that, how far their pixels are apart, and what this does to a model's accuracy.

Every side decodes all images and hands over float32 batches in [0, 1] on the CPU, with the same number of workers, which are
threads for DALI. A pass includes starting them, as an epoch does.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from cannonade.bench.timing import interleaved
from cannonade.classifier import Classifier
from cannonade.data.loader import open_loader
from cannonade.data.sources import Source
from cannonade.data.views import Augmentation, Feed
from cannonade.errors import InputError

SIDES = ("dali", "portable", "torchvision")
# Mean differences beyond which there is nothing to compare, in units of [0, 1]: torchvision resizes as Pillow does, in whole
# steps of 1/255; where they augment, so do both loaders, DALI's only on a CPU.
TOLERANCE = {"portable": 0.25 / 255, "torchvision": 0.75 / 255}
TOLERANCE_AUGMENTED = 0.4 / 255

Pass = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Difference:
    """Of the pixels of two sides, in units of [0, 1].

    Attributes:
        first, second: the sides.
        augmented: whether each image was augmented, by the same draws.
        mean, max: of the absolute difference.
    """

    first: str
    second: str
    augmented: bool
    mean: float
    max: float


@dataclass(frozen=True)
class Speed:
    """One side's images a second.

    Attributes:
        side: which.
        augmented: with random crops and mirrors, or with the centre of each image.
        median: over the rounds.
        quartiles: the first and the third.
        ratio: times torchvision's, the median of the rounds' ratios.
        ratio_interval: see `cannonade.bench.timing.Ratio`.
    """

    side: str
    augmented: bool
    median: float
    quartiles: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]


@dataclass(frozen=True)
class Accuracy:
    """What a model makes of one side's images.

    Attributes:
        side: which.
        right: images classified as labelled.
        changed: images classified otherwise than those of the first side.
        images: their number.
    """

    side: str
    right: int
    changed: int
    images: int


class _Plain(Dataset[tuple[Tensor, int]]):
    """What `ImageFolder` gives for these items."""

    def __init__(self, source: Source, transform: Callable[[Any], Tensor]) -> None:
        self._items, self._transform = source.items, transform

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self._items[index]
        return self._transform(default_loader(item.name)), item.label


def sides(source: Source, size: tuple[int, int], *, batch: int, workers: int, augmented: bool) -> dict[str, Pass]:
    """How each side makes one pass over the images."""
    if not source.reader.encoded:
        raise InputError("the loaders are compared on image files: name a folder of class/image files")
    augmentation = Augmentation() if augmented else None

    def ours(backend: Any) -> Pass:
        feed = Feed(size=size, batch=batch, augmentation=augmentation)
        loader = open_loader(source, feed, backend=backend, workers=workers)
        return lambda: (each.images for each in loader)

    plain = DataLoader(_Plain(source, torchvision_transform(size, augmentation)), batch_size=batch, num_workers=workers)
    return {"dali": ours("dali"), "portable": ours("portable"), "torchvision": lambda: (each for each, _ in plain)}


def torchvision_transform(size: tuple[int, int], augmentation: Augmentation | None) -> Callable[[Any], Tensor]:
    """As in torchvision's own training scripts, but with the same laws and the same part of the image as ours."""
    if augmentation is None:
        steps = [transforms.Resize(min(size)), transforms.CenterCrop(size)]
    else:
        crop = transforms.RandomResizedCrop(size, scale=augmentation.scale, ratio=augmentation.ratio)
        steps = [crop, transforms.RandomHorizontalFlip(augmentation.mirror)]
    composed: Callable[[Any], Tensor] = transforms.Compose([*steps, transforms.ToTensor()])
    return composed


def check(source: Source, size: tuple[int, int], *, batch: int, workers: int) -> list[Difference]:
    """The differences between DALI and the others; torchvision's augmentation draws for itself and is left out.

    Raises:
        InputError: one is beyond what rounding explains, so that a comparison of speeds would show nothing.
    """
    found = []
    for augmented in (False, True):
        made = sides(source, size, batch=batch, workers=workers, augmented=augmented)
        for other in SIDES[1:2] if augmented else SIDES[1:]:
            difference = _apart("dali", other, made, augmented)
            limit = TOLERANCE_AUGMENTED if augmented else TOLERANCE[other]
            if difference.mean > limit:
                raise InputError(
                    f"dali and {other} must decode alike, to {limit:.1e} on average, but are {difference.mean:.1e} apart"
                )
            found.append(difference)
    return found


def _apart(first: str, second: str, made: dict[str, Pass], augmented: bool) -> Difference:
    total, largest, count = 0.0, 0.0, 0
    for ours, theirs in zip(made[first](), made[second](), strict=True):
        apart = (ours - theirs).abs()
        total += float(apart.sum(dtype=torch.float64))
        largest = max(largest, float(apart.max()))
        count += apart.numel()
    return Difference(first, second, augmented, total / count, largest)


def measure(source: Source, size: tuple[int, int], *, batch: int, workers: int, rounds: int) -> Iterator[Speed]:
    """Images a second of every side, with and without augmentation, the sides in turn."""
    for augmented in (False, True):
        made = sides(source, size, batch=batch, workers=workers, augmented=augmented)
        timings = interleaved({name: _drained(each, len(source)) for name, each in made.items()}, rounds)
        for name, timing in timings.items():
            low, high = timing.quartiles
            ratio = timings[SIDES[-1]].over(timing)
            speed, ends = len(source) / timing.median, (len(source) / high, len(source) / low)
            yield Speed(name, augmented, speed, ends, ratio.median, ratio.interval)


def _drained(one: Pass, expected: int) -> Callable[[], None]:
    def drain() -> None:
        count = sum(len(images) for images in one())
        if count != expected:
            raise InputError(f"every image must come once, expected {expected}, got {count}")

    return drain


def judge(
    classifier: Classifier, source: Source, size: tuple[int, int], *, batch: int, workers: int
) -> Iterator[Accuracy]:
    """Clean accuracy on the images of every side, without augmentation."""
    labels = torch.tensor([item.label for item in source.items])
    first = None
    for name, one in sides(source, size, batch=batch, workers=workers, augmented=False).items():
        with torch.inference_mode():
            predicted = torch.cat([classifier(images).argmax(1) for images in one()])
        first = predicted if first is None else first
        yield Accuracy(name, int((predicted == labels).sum()), int((predicted != first).sum()), len(labels))


def as_json(rows: list[Any]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(row) for row in rows]
