"""Memory of freed tensors, kept for the next ones."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them, in glibc's malloc.h
_NEVER, _BYTES = -1, 1 << 30


def keep_freed_memory() -> bool:
    """Have this process keep blocks of up to 1 GiB that it frees, all of them, where it would give them back to the system.

    A batch of 64 images at 224×224 takes 38 MB, one layer's activations of 20 of them 32 MB. glibc asks the system for every
    block above 32 MB, and trims what is free at the end of its heap; the system then clears the pages one by one at their
    first use, which takes longer than the arithmetic of light transforms and slows an attack's passes by half. The setting
    holds for the whole process and its children, so it is for programs to make, not for a library.

    Returns:
        Whether the process now does so; only glibc has the setting.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_THRESHOLD, _BYTES))
