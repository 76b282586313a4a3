"""How many rows fit the memory at once: a measured probe, and retreat when it was too hopeful."""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import psutil
import torch
from torch import Tensor

from cannonade.draws import Draws, Phase

if TYPE_CHECKING:
    from cannonade.defended import DefendedClassifier  # it imports this file

Chunk = int | Literal["auto"]
Result = TypeVar("Result")

# On a CPU larger passes than this bring no speed.
_CPU_BYTES = 2 << 30
_NOTES: ContextVar[list[int] | None] = ContextVar("retreats", default=None)
_SHARE = 0.6  # of the free memory: activations are most of what a pass needs, not all
_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def resolve_chunk(chunk: Chunk, defended: "DefendedClassifier", images: Tensor, rows: int) -> int:
    """The number of rows of one pass.

    Args:
        chunk: a number is kept as it is; "auto" measures what one row keeps for its backward and divides the free memory.
        defended: what will run.
        images: [N, 3, H, W], N ≥ 1; the first is the probe.
        rows: how many rows there are in all; the result is at most this.
    """
    if chunk != "auto":
        return min(chunk, rows)
    return min(rows, rows_of_a_pass(bytes_per_row(defended, images), images.device))


def rows_of_a_pass(row: int, device: torch.device) -> int:
    """The rows of `row` bytes each that one pass takes best: those that fit, on a CPU not more than bring speed."""
    fit = rows_that_fit(row, device)
    return min(fit, max(1, _CPU_BYTES // max(1, row))) if device.type == "cpu" else fit


def rows_that_fit(row: int, device: torch.device) -> int:
    """The rows of `row` bytes each that the free memory holds, at least 1."""
    return max(1, int(_SHARE * _free_bytes(device) // max(1, row)))


def kept_rows_fit(rows: int, chunk: int, row: int, device: torch.device) -> bool:
    """Whether what `rows` rows keep for one backward fits the free memory, where only `chunk` of them run at once.

    Args:
        rows, chunk: how many.
        row: bytes of one, by `bytes_per_row`; half of them come and go.
        device: where.
    """
    return (rows + chunk) * row / 2 <= _SHARE * _free_bytes(device)


def bytes_per_row(defended: "DefendedClassifier", images: Tensor) -> int:
    """Bytes that one row's forward keeps for its backward, and as much again for what comes and goes.

    Args:
        defended: what will run.
        images: [N, 3, H, W], N ≥ 1; the first is looked at.
    """
    image = images[:1]
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    zero = torch.zeros(1, dtype=torch.int64, device=image.device)
    draws = Draws(seed=defended.seed, phase=Phase.SELECTION, images=zero, queries=zero)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        defended.logits(image.detach().requires_grad_(), draws)
    weights = {parameter.untyped_storage().data_ptr() for parameter in defended.parameters()}
    return 2 * sum(size for place, size in kept.items() if place not in weights)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle  # what PyTorch keeps for itself can be used again
    free = int(psutil.virtual_memory().available)
    if all(file.exists() for file in _LIMIT_FILES):
        limit, used = (file.read_text().strip() for file in _LIMIT_FILES)
        if limit != "max":
            free = min(free, int(limit) - int(used))
    return free + _kept_by_malloc()  # which this process can use again


class _Mallinfo2(ctypes.Structure):
    """glibc's struct mallinfo2, of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks"),
            *("fordblks", "keepcost"),
        )
    ]


def _kept_by_malloc() -> int:
    """Bytes that were freed and that glibc, from 2.33, has not given back."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Mallinfo2
    return int(mallinfo2().fordblks)


def with_retreat(work: Callable[[int], Result], chunk: int) -> tuple[Result, int]:
    """Run `work(chunk)`, halving the chunk while the device is out of memory.

    Returns:
        The result, and the chunk that it was computed with.

    Raises:
        torch.OutOfMemoryError: one row alone does not fit.
    """
    while True:
        try:
            return work(chunk), chunk
        except RuntimeError as error:
            if chunk == 1 or not _out_of_memory(error):
                raise
        # Outside the except block, so that the exception's frames no longer hold the tensors of the failed pass.
        gc.collect()
        torch.cuda.empty_cache()
        chunk //= 2
        if (notes := _NOTES.get()) is not None:
            notes.append(chunk)


@contextmanager
def noting_retreats() -> Iterator[list[int]]:
    """Yields a list that every retreat within the context adds its new chunk to."""
    notes: list[int] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def settled(work: Callable[[int], Result], chunk: int) -> tuple[Result, int]:
    """Run `work(chunk)`, from its beginning again with fewer rows wherever a pass in it had to retreat.

    A retreat changes the passes half-way; so the result's bits follow from the rows that it ended with.

    Returns:
        The result, and the chunk of all of its passes.
    """
    while True:
        with noting_retreats() as retreats:
            result = work(chunk)
        if not retreats:
            return result, chunk
        chunk = min(retreats)


def _out_of_memory(error: RuntimeError) -> bool:
    """On a CPU the allocator's refusal has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
