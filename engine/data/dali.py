"""Batches by NVIDIA DALI: decoded, cropped, resized and mirrored on the GPU where there is one, else by its CPU backend.

On a CPU DALI decodes only the part that augmentation shows, and PyTorch stretches it: DALI's own resize takes about four times
as long there, and the uint8 result has the bits of the portable loader. A batch is made while the one before is used.

Order and augmentation are ours, handed to DALI with every batch: its own readers and random operators depend on the size of
the batch and drift between epochs. An error inside DALI costs the whole batch, so the pipeline is then thrown away, the files
of that batch are tried one by one, and a new pipeline goes on behind them.
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from cannonade.data.portable import Refuse
from cannonade.data.readers import plain, upright_sides
from cannonade.data.sources import Item, Source
from cannonade.data.views import Feed
from cannonade.errors import InputError
from cannonade.kernels.planes import fill_planes

_Batch = tuple[Tensor, list[Item], int]
_INPUTS = {False: 1, True: 4}
_UNREADABLE = b"\0"  # what stands for a file that is not to be decoded: no decoder takes it


def batches(source: Source, feed: Feed, device: torch.device, workers: int, refuse: Refuse) -> Iterator[_Batch]:
    """Images [N, 3, H, W], their items, and how many positions were passed for them, batch by batch; see `Loader`."""
    number = _number(device)
    made = _batches(source, feed, number, workers, refuse)
    return _ahead(made) if number is None and workers else made


def _ahead(made: Generator[_Batch, None, None]) -> Iterator[_Batch]:
    """The same, each batch made while the one before is used."""
    with closing(made), ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, made, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, made, None)
            yield batch


def _batches(
    source: Source, feed: Feed, device: int | None, workers: int, refuse: Refuse
) -> Generator[_Batch, None, None]:
    plan = [[source.items[position] for position in batch] for batch in feed.batches(len(source))]
    passed = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        while plan:
            pipeline = _pipeline(source, feed, plan, device, workers)
            for number, items in enumerate(plan):
                try:
                    outputs = pipeline.run()
                except RuntimeError as error:
                    good = _usable(source, feed, items, device, refuse, str(error))
                    passed += len(items) - len(good)
                    plan = [*([good] if good else []), *plan[number + 1 :]]
                    break
                first, *mirrored = outputs
                images = _stretched(first, *mirrored, size=feed.size, pool=pool) if mirrored else _scaled(first)
                yield images, items, passed + len(items)
                passed = 0
            else:
                return


def _scaled(images: Any) -> Tensor:
    """Planes of floats up to 255, in [0, 1]."""
    # Divided here, because DALI multiplies by 1/255, which is not the same in the last bit; and where it resizes, white comes
    # out a little above 255.
    return (torch.utils.dlpack.from_dlpack(images.as_tensor()) / 255).clamp_(0, 1)


def _stretched(parts: Any, mirrored: Any, *, size: tuple[int, int], pool: Executor) -> Tensor:
    """Parts of images, each uint8 [H, W, 3] of its own sides, stretched to a size, mirrored and scaled to [0, 1]."""
    images = torch.empty(len(parts), 3, *size)

    def stretch(image: Tensor, part: Tensor, mirror: bool) -> None:
        pixels = vision.resize(part.permute(2, 0, 1)[None], list(size), antialias=True)[0]
        fill_planes(image, pixels.permute(1, 2, 0), mirror)

    views = [torch.utils.dlpack.from_dlpack(part) for part in parts]
    list(pool.map(stretch, images, views, (np.array(mirrored.as_tensor())[:, 0] != 0).tolist()))
    return images


def _pipeline(source: Source, feed: Feed, plan: Sequence[Sequence[Item]], device: int | None, workers: int) -> Any:
    augmented, (height, width), on_cpu = feed.augmentation is not None, feed.size, device is None

    @pipeline_def(batch_size=feed.batch, num_threads=max(1, workers), device_id=device, enable_conditionals=True)
    def pipeline() -> Any:
        inputs = fn.external_source(source=_inputs(source, feed, plan), num_outputs=_INPUTS[augmented], batch=True)
        if augmented and on_cpu:
            encoded, start, shape, mirror = inputs
            return fn.decoders.image_slice(encoded, start, shape, output_type=types.RGB, **_PIXELS), mirror
        # The hardware decoder differs in rounding, and which images it would get depends on their batch: a load of 0.
        images = fn.decoders.image(
            inputs[0], device="cpu" if on_cpu else "mixed", output_type=types.RGB, hw_decoder_load=0.0
        )
        mirror = 0
        if augmented:
            _, start, shape, mirror = inputs
            images = fn.slice(images, start, shape, **_PIXELS)
            images = fn.resize(images, size=[height, width], dtype=types.FLOAT, **_TRIANGULAR)
        else:
            sides = fn.peek_image_shape(inputs[0])
            # Resizing to the same size costs as much as any other.
            if (sides[0] != height) | (sides[1] != width):
                images = fn.resize(
                    images, size=_fitting(sides[0], sides[1], feed.size), dtype=types.FLOAT, **_TRIANGULAR
                )
                images = fn.crop(images, crop=[height, width], rounding="truncate")
            else:
                images = fn.cast(images, dtype=types.FLOAT)
        return fn.crop_mirror_normalize(
            images, mirror=mirror, dtype=types.FLOAT, output_layout="CHW", mean=[0.0] * 3, std=[1.0] * 3
        )

    built = pipeline()
    built.build()
    return built


# Corners and sides in pixels, rows before columns.
_PIXELS: dict[str, Any] = {"axes": [0, 1], "normalized_anchor": False, "normalized_shape": False}
# Bilinear, and antialiased where it shrinks.
_TRIANGULAR = {"interp_type": types.INTERP_TRIANGULAR}


def _fitting(height: Any, width: Any, size: tuple[int, int]) -> Any:
    """`readers.fitting` for DALI. Its own mode `not_smaller` would scale by the sides before they are rounded."""
    tall = math.max((2 * height * size[1] + width) // (2 * width), size[0])
    wide = math.max((2 * width * size[0] + height) // (2 * height), size[1])
    return fn.cast(fn.stack(tall, wide), dtype=types.FLOAT)


def _number(device: torch.device) -> int | None:
    """DALI's name of a device: None is the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _inputs(source: Source, feed: Feed, plan: Sequence[Sequence[Item]]) -> Iterator[tuple[list[np.ndarray], ...]]:
    """For each batch: file contents and, with augmentation, first corner and sides of the part to see, and whether mirrored."""
    for items in plan:
        contents = [_content(source, item) for item in items]
        encoded = [np.frombuffer(content, dtype=np.uint8) for content in contents]
        if feed.augmentation is None:
            yield (encoded,)
            continue
        whole = torch.tensor([upright_sides(content) for content in contents])
        draws = feed.draws(torch.tensor([item.id for item in items])).part(0)
        boxes, mirrored = feed.augmentation.draw(draws, whole.clamp(min=1))
        corners, sides = (list(part.float().numpy()) for part in (boxes[:, :2], boxes[:, 2:]))
        yield encoded, corners, sides, list(mirrored.int().numpy()[:, None])


def _content(source: Source, item: Item) -> bytes:
    """What DALI is to decode. Where it might take what Pillow refuses, such as transparent pixels, Pillow is asked first."""
    try:
        content = source.reader.content(item.id, item.name)
        if content and not plain(content):
            source.read(item)
    except InputError:
        return _UNREADABLE
    return content or _UNREADABLE


def _usable(
    source: Source, feed: Feed, items: Sequence[Item], device: int | None, refuse: Refuse, reason: str
) -> list[Item]:
    """The items of a batch that can be decoded; the others are refused."""
    good = []
    for item in items:
        fault = _fault(source, feed, item, device)
        if fault is None:
            good.append(item)
        else:
            refuse(item, fault)
    if len(good) == len(items):
        raise InputError(f"DALI must decode a batch whose images it decodes one by one, but says: {reason}")
    return good


def _fault(source: Source, feed: Feed, item: Item, device: int | None) -> str | None:
    """Why an image cannot be decoded; None where it can."""
    try:
        source.read(item)
    except InputError as error:
        return str(error)
    try:
        _pipeline(source, replace(feed, batch=1), [[item]], device, workers=1).run()
    except RuntimeError as error:
        first = next(line for line in str(error).splitlines() if line.strip())
        return f"DALI cannot decode {item.name}, though Pillow can, so loader 'portable' takes it: {first}"
    return None
