"""Several processes that train one model, started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cannonade.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train.

    Attributes:
        rank: its number.
        world: how many there are.
        local: its number on its own machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            distributed.barrier()

    def total(self, values: Tensor) -> Tensor:
        """The sum of every process's tensor."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, content: Any) -> list[Any]:
        """What every process has, in the order of the ranks."""
        if self.world == 1:
            return [content]
        gathered: list[Any] = [None] * self.world
        distributed.all_gather_object(gathered, content)
        return gathered

    def same_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's batch-norm statistics."""
        if self.world > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, 0)


def ranks_from_environment() -> Ranks:
    """As torchrun says; one process without it."""
    numbers = (
        os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Ranks(*map(int, numbers))


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Join the other processes for as long as the context lasts: by NCCL between GPUs, else by gloo.

    Raises:
        InputError: the processes cannot reach each other.
    """
    if ranks.world == 1:
        yield
        return
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"several processes must be started by torchrun: {error}") from error
    try:
        yield
    finally:
        distributed.destroy_process_group()
