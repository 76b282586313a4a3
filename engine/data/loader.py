"""Batches of a source, decoded by DALI where it is installed, else by Pillow in worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from cannonade.data.sources import Item, Source
from cannonade.data.views import Feed
from cannonade.errors import InputError

Backend = Literal["auto", "dali", "portable"]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Batch:
    """Images with what they are.

    Attributes:
        images: [N, 3, H, W] float32 in [0, 1].
        labels: [N] int64.
        ids: [N] int64, on the host, each image's index in its source: what decides its draws, which are made there.
        position: images of this rank's share that are behind once this batch is done, those skipped among them: the `start`
            of a feed that goes on after it.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    position: int


@dataclass
class Loader:
    """An iterable of batches; every image whose turn it is comes exactly once, in the order of the feed.

    Attributes:
        source: where the images come from.
        feed: which, when, and what part of each.
        device: where the batches are wanted.
        backend: "dali" or "portable".
        workers: threads of DALI, or worker processes; 0 for none.
        on_error: whether an unusable file is an error, or passed over and noted.
        skipped: files passed over so far, and why.
        waited: seconds so far that whoever iterates spent waiting for batches; the device is not waited for.
    """

    source: Source
    feed: Feed
    device: torch.device
    backend: Literal["dali", "portable"]
    workers: int = 2
    on_error: OnError = "raise"
    skipped: list[tuple[Item, str]] = field(default_factory=list)
    waited: float = 0.0

    def __len__(self) -> int:
        """Batches still to come."""
        return len(self.feed.batches(len(self.source)))

    def __iter__(self) -> Iterator[Batch]:
        """One pass over what is left of the epoch."""
        if self.backend == "dali":
            from cannonade.data.dali import batches
        else:
            from cannonade.data.portable import batches
        position, began = self.feed.start, perf_counter()
        for images, items, passed in batches(self.source, self.feed, self.device, self.workers, self.refuse):
            position += passed
            labels = torch.tensor([item.label for item in items], device=self.device)
            ids = torch.tensor([item.id for item in items])
            self.waited += perf_counter() - began
            yield Batch(images, labels, ids, position)
            began = perf_counter()

    def refuse(self, item: Item, reason: str) -> None:
        """Note an unusable file, or raise InputError where that is not asked for."""
        if self.on_error == "raise":
            raise InputError(f"{reason}; on_error='skip' passes over such files")
        self.skipped.append((item, reason))


def open_loader(
    source: Source,
    feed: Feed,
    *,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
    workers: int = 2,
    on_error: OnError = "raise",
) -> Loader:
    """A loader for a source.

    Both resize bilinearly, and with antialiasing where they shrink. On a CPU the two backends give the same bits for images
    that have the size already and for augmented ones of 8 bits a channel, and differ by rounding where they resize whole
    images; on a GPU, DALI's decoder and resize have a rounding of their own.
    `cannonade bench loader` measures what that does to a model's accuracy.

    Args:
        source: where the images come from.
        feed: which, when, and what part of each.
        device: where the batches are wanted; on a GPU DALI decodes there.
        backend: "dali" needs `nvidia-dali` and a source of image files; "auto" takes it where both are there.
        workers: threads of DALI, and on a CPU as many that stretch what is augmented; or worker processes; 0 for none.
        on_error: "raise" names the first unusable file; "skip" passes over such files and notes them in `skipped`.

    Raises:
        InputError: an unknown or impossible backend, or a bad number of workers.
    """
    if backend not in ("auto", "dali", "portable"):
        raise InputError(f"loader must be auto, dali or portable, got {backend!r}")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if workers < 0:
        raise InputError(f"workers must be at least 0, got {workers}")
    installed = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None
    if backend == "dali" and not installed:
        raise InputError("loader 'dali' needs DALI: pip install nvidia-dali-cuda130, or use 'portable'")
    if backend == "dali" and not source.reader.encoded:
        raise InputError("loader 'dali' decodes image files, and this source has none: use 'auto' or 'portable'")
    dali = backend == "dali" or (backend == "auto" and installed and source.reader.encoded)
    return Loader(source, feed, torch.device(device), "dali" if dali else "portable", workers, on_error)
