"""The compiled route for CPUs: the functions of this folder's C++ files, called by name.

setup.py builds them into one library where it finds a C++ compiler. Elsewhere `available` says no, and the kernels run
in PyTorch. The functions are plain C on raw pointers, so the library fits every version of Python and PyTorch.
"""

import ctypes
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from cannonade.errors import InputError


def available() -> bool:
    """Whether the library was built when the package was installed."""
    return _library() is not None


def run(name: str, *arguments: Tensor | int | float) -> None:
    """Call a function of the library on `torch.get_num_threads()` threads.

    Args:
        name: of the C function.
        arguments: what it takes, in order: contiguous CPU tensors for its pointers (the caller sees to their types and
            shapes), integers for int64_t, floats for double. The count of threads is added as the last.

    Raises:
        InputError: the library was not built, or from older sources, or a tensor is not contiguous or not on the CPU.
    """
    function = getattr(_library(), name, None)
    if function is None:
        raise InputError(f"cannonade's native library has no {name}; reinstall cannonade where there is a C++ compiler")
    function.restype = None
    function(*(_as_c(argument) for argument in (*arguments, torch.get_num_threads())))


@cache
def _library() -> ctypes.CDLL | None:
    spec = find_spec("cannonade.kernels._native")
    return None if spec is None or spec.origin is None else ctypes.CDLL(spec.origin)


def _as_c(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if not isinstance(value, Tensor):
        return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_double(value)
    if not value.is_cpu or not value.is_contiguous():
        raise InputError(f"native code takes contiguous CPU tensors, got strides {value.stride()} on {value.device}")
    return ctypes.c_void_p(value.data_ptr())
