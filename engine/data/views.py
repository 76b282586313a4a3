"""Which images come when, and which part of each is seen: order, shards, crops and mirrors, all pure functions of the seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random part of the image, stretched to the size of the input, and mirrored or not (Szegedy et al., CVPR 2015).

    Attributes:
        scale: range of the part's share of the area.
        ratio: range of its width over its height; uniform in the logarithm.
        mirror: probability of mirroring left and right.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale must be a range in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio must be a range of positive numbers, got {self.ratio}")
        if not 0 <= self.mirror <= 1:
            raise InputError(f"mirror must be in [0, 1], got {self.mirror}")

    def draw(self, draws: Draws, sides: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a part of each image.

        Args:
            draws: N streams.
            sides: [N, 2], height and width of each image.

        Returns:
            [N, 4] int64, top, left, height and width of the part, inside the image; [N] bool, whether it is mirrored.
        """
        draws = draws.ahead(2)
        first, second = draws.site(0).uniform(shape=(4,)).double(), draws.site(1).uniform()
        height, width = sides.double().unbind(1)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * first[:, 0])
        low, high = (torch.tensor(end, dtype=torch.float64).log() for end in self.ratio)
        ratio = (low + (high - low) * first[:, 1]).exp()
        own_height = (area / ratio).sqrt().round().clamp(min=1).minimum(height)
        own_width = (area * ratio).sqrt().round().clamp(min=1).minimum(width)
        top = (first[:, 2] * (height - own_height + 1)).floor()
        left = (first[:, 3] * (width - own_width + 1)).floor()
        return torch.stack((top, left, own_height, own_width), dim=1).long(), second < self.mirror


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a loader delivers, and in which order.

    Attributes:
        size: (H, W) of the images; without augmentation the shorter side is resized to fit and the centre cropped.
        batch: images of one batch; the last one may be smaller, and is delivered whole.
        seed: of order and augmentation.
        epoch: number of the pass over the data.
        shuffle: in a random order, another one each epoch.
        augmentation: the part of each image, drawn by (image, epoch); the centre without.
        rank, world: of the processes that share the data.
        even: every rank gets the same number of images: what is left over rests, others in another epoch. For training; an
            evaluation takes every image exactly once.
        start: images of this rank's share to pass over, to continue in the middle of an epoch.
    """

    size: tuple[int, int]
    batch: int
    seed: int = 0
    epoch: int = 0
    shuffle: bool = False
    augmentation: Augmentation | None = None
    rank: int = 0
    world: int = 1
    even: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("batch", self.batch, 1), ("epoch", self.epoch, 0), ("start", self.start, 0)):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank must be in 0 … {self.world - 1}, got {self.rank}")

    def share(self, count: int) -> list[int]:
        """The positions, among `count` images, that this rank delivers, in order; `start` is not taken off."""
        positions = torch.arange(count)
        if self.shuffle:
            zero = torch.zeros(1, dtype=torch.int64)
            draws = Draws(seed=self.seed, phase=Phase.ORDER, images=zero, queries=zero + self.epoch)
            positions = draws.site(0).permutation(count)[0]
        if self.even:
            # Rotated by the epoch, so that without shuffling other images rest each time.
            rest = count % self.world
            positions = positions.roll(-self.epoch * rest)[: count - rest]
        own: list[int] = positions[self.rank :: self.world].tolist()
        return own

    def batches(self, count: int) -> list[list[int]]:
        """The positions of each batch still to come."""
        left = self.share(count)[self.start :]
        return [left[first : first + self.batch] for first in range(0, len(left), self.batch)]

    def draws(self, ids: Tensor) -> Draws:
        """Streams for images in this epoch: part 0 is the augmentation's, part 1 is free for a defense."""
        return Draws(seed=self.seed, phase=Phase.TRAINING, images=ids, queries=torch.full_like(ids, self.epoch))
