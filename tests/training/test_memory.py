import platform
import subprocess
import sys

import pytest

# Bytes above what glibc keeps by itself; the first round grows the heap.
PROGRAM = """
import ctypes, resource
from cannonade.training.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(40 << 20)
    ctypes.memset(block, 1, 40 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_used_again():
    """By default every page of a new block is a fault, even where huge pages make them few."""
    faults = [int(subprocess.check_output([sys.executable, "-c", PROGRAM.format(keep=keep)])) for keep in (False, True)]
    assert faults[1] < 10 < faults[0], faults
