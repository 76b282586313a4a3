"""Which implementation of a kernel runs, and Triton where it is installed.

Kernel files take `jit`, `tl` and `triton` from here, so that they can be imported where Triton does not exist (it is
for Linux only). They start with `from __future__ import annotations`, so that no `tl.constexpr` is looked up at import;
quoted annotations would not do, as Triton's interpreter quotes them once more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels import native as native_code

triton: Any = import_module("triton") if find_spec("triton") else None
tl: Any = import_module("triton.language") if find_spec("triton") else None

Backend = Literal["auto", "triton", "native", "torch"]
NARROW = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
)  # what kernels on Triton read and write; they compute in float32


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`; where Triton is not installed, the function as it is (`choose` keeps it from being called)."""
    return function if triton is None else triton.jit(function)


def choose(
    backend: Backend, tensor: Tensor, native: bool = False, on_gpu: bool = False
) -> Literal["triton", "native", "torch"]:
    """The implementation that runs on a tensor.

    Args:
        backend: "auto" for Triton on a GPU (where it is installed), native code on a CPU (where it was built) and
            PyTorch elsewhere, or one of them by name.
        tensor: an argument of the kernel.
        native: whether native code covers the call: the kernel has it, for these dtypes.
        on_gpu: whether Triton covers the call.

    Raises:
        InputError: the backend does not exist, is not installed, or cannot run on the tensor's device.
    """
    if backend not in get_args(Backend):
        raise InputError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "auto":
        if tensor.is_cuda:
            return "triton" if on_gpu and triton is not None else "torch"
        return "native" if native and tensor.is_cpu and native_code.available() else "torch"
    if backend == "triton":
        if not on_gpu:
            raise InputError('backend "triton" has no code for this kernel and these dtypes; use "torch" or "auto"')
        if triton is None:
            raise InputError('backend "triton" needs Triton, which is for Linux only; use "torch" or "auto"')
        if not (tensor.is_cuda or triton.knobs.runtime.interpret):
            raise InputError(f'backend "triton" needs tensors on a GPU, got {tensor.device}; use "torch" or "auto"')
    if backend == "native":
        if not native:
            raise InputError('backend "native" has no code for this kernel and these dtypes; use "torch" or "auto"')
        if not tensor.is_cpu:
            raise InputError(f'backend "native" needs tensors on a CPU, got {tensor.device}; use "torch" or "auto"')
        if not native_code.available():
            raise InputError('backend "native" was not built; install cannonade with a C++ compiler or use "auto"')
    return backend


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """The context of a launch: Triton launches on the current GPU, whatever its arguments are on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; from the host to a GPU without waiting for it, which takes pinned memory."""
    if tensor.is_cpu and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@cache
def constants(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers, or rows of numbers, on a device: sent there once, since no launch may wait for them."""
    with torch.inference_mode(False):
        return carry(torch.tensor(values, dtype=dtype), device)
