"""Batches by NVIDIA DALI: decoded, cropped, resized and mirrored on the GPU where there is one, else by its CPU backend.

Order and augmentation are ours, handed to DALI with every batch: its own readers and random operators depend on the size of
the batch and drift between epochs. An error inside DALI costs the whole batch, so the pipeline is then thrown away, the files
of that batch are tried one by one, and a new pipeline goes on behind them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from cannonade.data.portable import Refuse
from cannonade.data.readers import upright_sides
from cannonade.data.sources import Item, Source
from cannonade.data.views import Feed
from cannonade.errors import InputError

_INPUTS = {False: 1, True: 4}
_UNREADABLE = np.zeros(1, dtype=np.uint8)  # what stands for a file without content: no decoder takes it


def batches(
    source: Source, feed: Feed, device: torch.device, workers: int, refuse: Refuse
) -> Iterator[tuple[Tensor, list[Item]]]:
    """Images [N, 3, H, W] and their items, batch by batch; see `Loader`."""
    plan = [[source.items[position] for position in batch] for batch in feed.batches(len(source))]
    while plan:
        pipeline = _pipeline(source, feed, plan, device, workers)
        for number, items in enumerate(plan):
            try:
                (output,) = pipeline.run()
            except RuntimeError as error:
                good = _usable(source, items, refuse, str(error))
                plan = [*([good] if good else []), *plan[number + 1 :]]
                break
            # The buffer is DALI's, and it will write the next batch into it.
            yield torch.utils.dlpack.from_dlpack(output.as_tensor()).clone(), items
        else:
            return


def _pipeline(source: Source, feed: Feed, plan: Sequence[Sequence[Item]], device: torch.device, workers: int) -> Any:
    place = (device.index or 0) if device.type == "cuda" else None
    augmented = feed.augmentation is not None

    @pipeline_def(batch_size=feed.batch, num_threads=max(1, workers), device_id=place)
    def pipeline() -> Any:
        inputs = fn.external_source(source=_inputs(source, feed, plan), num_outputs=_INPUTS[augmented], batch=True)
        images = fn.decoders.image(inputs[0], device="cpu" if place is None else "mixed", output_type=types.RGB)
        if augmented:
            _, start, shape, mirror = inputs
            images = fn.slice(images, start, shape, axes=[0, 1], normalized_anchor=False, normalized_shape=False)
            images = fn.resize(images, size=list(feed.size), interp_type=types.INTERP_TRIANGULAR)
        else:
            mirror = 0
            images = fn.resize(images, size=list(feed.size), mode="not_smaller", interp_type=types.INTERP_TRIANGULAR)
            images = fn.crop(images, crop=list(feed.size))
        return fn.crop_mirror_normalize(
            images, mirror=mirror, dtype=types.FLOAT, output_layout="CHW", mean=[0.0] * 3, std=[255.0] * 3
        )

    built = pipeline()
    built.build()
    return built


def _inputs(source: Source, feed: Feed, plan: Sequence[Sequence[Item]]) -> Iterator[tuple[list[np.ndarray], ...]]:
    """For each batch: file contents and, with augmentation, first corner and sides of the part to see, and whether mirrored."""
    for items in plan:
        contents = [_content(source, item) for item in items]
        if feed.augmentation is None:
            yield (contents,)
            continue
        whole = torch.tensor([upright_sides(content.tobytes()) for content in contents])
        draws = feed.draws(torch.tensor([item.id for item in items])).part(0)
        boxes, mirrored = feed.augmentation.draw(draws, whole.clamp(min=1))
        corners, sides = (list(part.float().numpy()) for part in (boxes[:, :2], boxes[:, 2:]))
        yield contents, corners, sides, list(mirrored.int().numpy()[:, None])


def _content(source: Source, item: Item) -> np.ndarray:
    try:
        content = source.reader.content(item.id, item.name)
    except InputError:
        return _UNREADABLE
    return np.frombuffer(content, dtype=np.uint8) if content else _UNREADABLE


def _usable(source: Source, items: Sequence[Item], refuse: Refuse, reason: str) -> list[Item]:
    """The items of a batch that can be decoded; the others are refused."""
    good = []
    for item in items:
        try:
            source.pixels(item)
        except InputError as error:
            refuse(item, str(error))
        else:
            good.append(item)
    if len(good) == len(items):
        raise InputError(f"DALI cannot decode a batch that Pillow can, use loader 'portable': {reason}")
    return good
