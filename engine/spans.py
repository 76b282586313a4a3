"""The parts of a pass by name, as PyTorch's profiler shows them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from torch.autograd import profiler

Part = Literal["draws", "schedule", "transforms", "model", "reduction", "backward"]

PREFIX = "cannonade."
_NOTHING = nullcontext()


def span(part: Part) -> AbstractContextManager[Any]:
    """Name what the context does, where a profiler runs; else it costs a fifth of a microsecond, `record_function` 5 or more.

    Args:
        part: "draws": parameters are sampled; "schedule": rows are laid out, planned and grouped; "transforms" and "model":
            their forward; "reduction": losses, and sums over draws; "backward": of them all, whose nodes the profiler tells
            apart by their sequence numbers.
    """
    return profiler.record_function(PREFIX + part) if profiler._is_profiler_enabled else _NOTHING
