"""Where the seconds go, part by part."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


class Stopwatch:
    """Seconds by part. On a GPU they are those between events in its queue, so that measuring does not wait for it.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the context."""
        if self._cuda:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._events.append((name, began, ended))
            return
        started = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - started)

    def waiting(self, name: str, values: Iterable[Part]) -> Iterator[Part]:
        """The same values; counts what this process waits for each."""
        iterator = iter(values)
        while True:
            started = time.perf_counter()
            try:
                value = next(iterator)
            except StopIteration:
                return
            finally:
                self._add(name, time.perf_counter() - started)
            yield value

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading; on a GPU it waits for what is under way."""
        if self._events:
            torch.cuda.synchronize()
            for name, began, ended in self._events:
                self._add(name, began.elapsed_time(ended) / 1000)
            self._events.clear()
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
