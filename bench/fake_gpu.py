"""A GPU in name only: launches are listed where there is none, and whatever would wait for the device fails.

PyTorch's fake tensors know their device, shape and type, and no values. So whoever reads one back is found, and so is a copy to
the device from memory that is not pinned, which waits as well and which no CUDA graph captures.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cannonade.errors import InputError
from cannonade.kernels.backend import triton

# Few machines have so many, and nothing else here uses it: caches of constants keep fake tensors for it.
FAKE_GPU = torch.device("cuda", 7)

_MODE = FakeTensorMode(allow_non_fake_inputs=True)


class Waiting(Exception):
    """A copy to the device that waits, or a launch that cannot be."""


@dataclass(frozen=True)
class Launched:
    """One launch.

    Attributes:
        kernel: the jitted function.
        arguments: by name.
    """

    kernel: Any
    arguments: Mapping[str, Any]


@contextmanager
def fake_gpu() -> Iterator[list[Launched]]:
    """Everything in it is fake; kernels are not launched but listed, their arguments checked.

    Raises:
        InputError: Triton is not installed, or interprets kernels.
    """
    if triton is None or triton.knobs.runtime.interpret:
        raise InputError("launches are listed only where Triton is installed and does not interpret kernels")
    launched: list[Launched] = []

    def launch(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        arguments = dict(zip(kernel.arg_names, args, strict=False)) | options
        for name, value in arguments.items():
            if isinstance(value, Tensor) and value.device != FAKE_GPU:
                raise Waiting(f"{kernel.__name__} got {name} on {value.device}")
        if any(type(size) is not int for size in grid):
            raise Waiting(f"the grid of {kernel.__name__} is not of whole numbers: {grid}")
        launched.append(Launched(kernel, arguments))

    with (
        patch.object(triton.runtime.jit.JITFunction, "run", launch),
        patch.object(torch.cuda, "device", lambda _: nullcontext()),
        patch.object(torch.Tensor, "pin_memory", _pinned),
        _MODE,
        _Copies(),  # type: ignore[no-untyped-call]  # PyTorch's
    ):
        yield launched


def _pinned(tensor: Tensor) -> Tensor:
    out = tensor.clone()
    out._is_pinned_in_name = True  # type: ignore[attr-defined]
    return out


class _Copies(TorchDispatchMode):
    """Lets nothing but pinned memory be copied to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in ("aten::_to_copy", "aten::copy_") and out.device == FAKE_GPU:
            source = args[1] if name == "aten::copy_" else args[0]
            if source.is_cpu and not hasattr(source, "_is_pinned_in_name"):
                raise Waiting("a copy to the device from memory that is not pinned waits: see `carry`")
        return out


def on_host(function: Callable[[], Any]) -> Any:
    """What a function gives outside the fake GPU: real tensors, on the host."""
    with torch.utils._python_dispatch._disable_current_modes():
        return function()
