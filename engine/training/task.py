"""All that decides a training, and its record."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch

from cannonade.data.loader import Backend, Loader, open_loader
from cannonade.data.sources import Source
from cannonade.data.views import Feed
from cannonade.defenses import Defense
from cannonade.errors import InputError
from cannonade.training.distributed import Ranks
from cannonade.training.recipe import Recipe
from cannonade.training.start import Start


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training.

    Attributes:
        start: the network.
        initial: where its weights came from, for the record.
        defense: drawn anew for every image and epoch.
        train, validation: images whose labels are the places of their logits.
        recipe: everything else that decides the numbers.
        ranks: this process among all.
        device: where it runs.
        loader: what decodes.
        workers: of the loader.

    Raises:
        InputError: there are fewer images than processes.
    """

    start: Start
    initial: str
    defense: Defense
    train: Source
    validation: Source
    recipe: Recipe
    ranks: Ranks = field(default_factory=Ranks)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    loader: Backend = "auto"
    workers: int = 2

    def __post_init__(self) -> None:
        if len(self.train) < self.ranks.world:
            raise InputError(
                f"every process must have an image, got {len(self.train)} for {self.ranks.world} processes"
            )

    @property
    def rows(self) -> int:
        """Images of one pass of one process."""
        return self.recipe.rows(self.ranks.world)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        share = len(self.train) // self.ranks.world
        return -(-share // (self.rows * self.recipe.accumulate))

    def feed(self, epoch: int, step: int = 0) -> Feed:
        """The training images of this process from a step of an epoch on."""
        return Feed(
            size=self.start.card.input_size, batch=self.rows, seed=self.recipe.seed, epoch=epoch, shuffle=True,
            augmentation=self.recipe.augmentation, rank=self.ranks.rank, world=self.ranks.world, even=True,
            start=step * self.rows * self.recipe.accumulate,
        )  # fmt: skip

    def load(self, source: Source, feed: Feed) -> Loader:
        """Batches on the device."""
        return open_loader(source, feed, device=self.device, backend=self.loader, workers=self.workers)

    def configuration(self) -> dict[str, Any]:
        """The settings that decide the numbers, as JSON has them."""
        card = self.start.card
        content: dict[str, Any] = json.loads(
            json.dumps(
                {
                    "model": card.model,
                    "initial": self.initial,
                    "classes": card.classes,
                    "input_size": card.input_size,
                    "defense": str(self.defense),
                    "train": digest(self.train),
                    "validation": digest(self.validation),
                    **self.recipe.as_json(),
                    "processes": self.ranks.world,
                    "device": self.device.type,
                    "loader": self.load(self.train, self.feed(0)).backend,
                }
            )
        )
        return content


def digest(source: Source) -> str:
    """SHA-256 over ids, labels and pixels; over file names in place of pixels where the images are files, which may be many."""
    if not source.reader.encoded:
        return source.checksum
    sha = hashlib.sha256()
    for item in source.items:
        sha.update(f"{item.id} {item.label} {'/'.join(PurePath(item.name).parts[-2:])}\n".encode())
    return sha.hexdigest()


def hash_of(configuration: dict[str, Any]) -> str:
    """SHA-256 of a configuration."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
