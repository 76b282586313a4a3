"""Batches by Pillow and torchvision in the worker processes of a DataLoader."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as vision

from cannonade.data.readers import fit, scaled
from cannonade.data.sources import Item, Source
from cannonade.data.views import Feed
from cannonade.errors import InputError

Refuse = Callable[[Item, str], None]
Read = tuple[Tensor, list[str]]


class _Views(Dataset[Read]):
    """What a worker makes of a batch of positions: one tensor of the images that could be read, since each tensor costs a
    file descriptor on its way to another process; and for every position why not, or nothing."""

    def __init__(self, source: Source, feed: Feed) -> None:
        self._source, self._feed = source, feed

    def __getitems__(self, positions: Sequence[int]) -> Read:
        items = [self._source.items[position] for position in positions]
        images, ids, faults = [], [], []
        for item in items:
            try:
                images.append(self._source.read(item))
            except InputError as error:
                faults.append(str(error))
            else:
                ids.append(item.id)
                faults.append("")
        return _stacked(self._seen(images, ids)), faults

    def _seen(self, images: list[Tensor], ids: list[int]) -> list[Tensor]:
        """The part of each image that the feed asks for."""
        augmentation, size = self._feed.augmentation, list(self._feed.size)
        if augmentation is None or not images:
            return [fit(image, self._feed.size) for image in images]
        sides = torch.tensor([image.shape[1:] for image in images])
        boxes, mirrored = augmentation.draw(self._feed.draws(torch.tensor(ids)).part(0), sides)
        parts = [
            vision.resized_crop(image, *box, size=size, antialias=True)
            for image, box in zip(images, boxes.tolist(), strict=True)
        ]
        parts = [part if part.dtype == torch.uint8 else part.clamp(0, 1) for part in parts]
        return [part.flip(-1) if mirror else part for part, mirror in zip(parts, mirrored.tolist(), strict=True)]


def _stacked(images: list[Tensor]) -> Tensor:
    """As uint8 where all are, a quarter of the bytes to move; else as float32 in [0, 1]."""
    if not images:
        return torch.empty(0)
    if any(image.dtype != torch.uint8 for image in images):
        images = [scaled(image) for image in images]
    return torch.stack(images)


def _as_it_is(read: Any) -> Any:
    return read


def batches(
    source: Source, feed: Feed, device: torch.device, workers: int, refuse: Refuse
) -> Iterator[tuple[Tensor, list[Item], int]]:
    """Images [N, 3, H, W], their items, and how many positions were passed for them, batch by batch; see `Loader`."""
    plan = feed.batches(len(source))
    loader: DataLoader[Read] = DataLoader(
        _Views(source, feed),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # it would take the workers' seed, which nothing uses, from the global one
    )
    passed = 0
    for positions, (images, faults) in zip(plan, loader, strict=True):
        passed += len(positions)
        good = []
        for position, fault in zip(positions, faults, strict=True):
            if fault:
                refuse(source.items[position], fault)
            else:
                good.append(source.items[position])
        if good:
            yield scaled(images.to(device, non_blocking=True)), good, passed
            passed = 0
