"""Batches by Pillow and torchvision in the worker processes of a DataLoader."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as vision

from cannonade.data.readers import fit
from cannonade.data.sources import Item, Source
from cannonade.data.views import Feed
from cannonade.errors import InputError

Refuse = Callable[[Item, str], None]
Read = tuple[Tensor | None, str]


class _Views(Dataset[list[Read]]):
    """What a worker makes of a batch of positions: each image as it is seen, or why it could not be read."""

    def __init__(self, source: Source, feed: Feed) -> None:
        self._source, self._feed = source, feed

    def __getitems__(self, positions: Sequence[int]) -> list[Read]:
        items = [self._source.items[position] for position in positions]
        read = [self._read(item) for item in items]
        good = [place for place, (image, _) in enumerate(read) if image is not None]
        if self._feed.augmentation is None or not good:
            return read
        sides = torch.tensor([list(_image(read[place]).shape[1:]) for place in good])
        ids = torch.tensor([items[place].id for place in good])
        boxes, mirrored = self._feed.augmentation.draw(self._feed.draws(ids).part(0), sides)
        for place, box, mirror in zip(good, boxes.tolist(), mirrored.tolist(), strict=True):
            part = vision.resized_crop(_image(read[place]), *box, size=list(self._feed.size), antialias=True)
            read[place] = ((part.flip(-1) if mirror else part).clamp(0, 1), "")
        return read

    def _read(self, item: Item) -> Read:
        try:
            image = self._source.pixels(item)
        except InputError as error:
            return None, str(error)
        return image if self._feed.augmentation else fit(image, self._feed.size), ""


def _image(read: Read) -> Tensor:
    image, reason = read
    if image is None:
        raise InputError(reason)
    return image


def batches(
    source: Source, feed: Feed, device: torch.device, workers: int, refuse: Refuse
) -> Iterator[tuple[Tensor, list[Item]]]:
    """Images [N, 3, H, W] and their items, batch by batch; see `Loader`."""
    plan = feed.batches(len(source))
    loader: DataLoader[list[Read]] = DataLoader(
        _Views(source, feed),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=list,
        pin_memory=False,
        generator=torch.Generator(),  # it would take the workers' seed, which nothing uses, from the global one
    )
    for positions, read in zip(plan, loader, strict=True):
        good, images = [], []
        for position, (image, reason) in zip(positions, read, strict=True):
            if image is None:
                refuse(source.items[position], reason)
            else:
                good.append(source.items[position])
                images.append(image)
        if good:
            stacked = torch.stack(images)
            yield (stacked.pin_memory() if device.type == "cuda" else stacked), good
