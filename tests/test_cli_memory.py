import platform
import subprocess
import sys

import pytest

# Bytes above what glibc keeps by itself; the first round grows the heap.
PROGRAM = """
import ctypes, resource, sys
from cannonade import cli
from cannonade.cli.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
elif {program}:
    sys.argv = ["cannonade", "--help"]
    try:
        cli.main()
    except SystemExit:
        pass
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
    plain, kept, by_program = (
        int(subprocess.check_output([sys.executable, "-c", PROGRAM.format(keep=keep, program=program)]).split()[-1])
        for keep, program in ((False, False), (True, False), (False, True))
    )
    assert kept < 10 < plain
    assert by_program < 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_that_is_kept_counts_as_free():
    program = """
import ctypes
from cannonade.chunking import _kept_by_malloc
from cannonade.cli.memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(900 << 20) for _ in range(3)]  # more than glibc would keep of any threshold
before = _kept_by_malloc()
for block in blocks:
    libc.free(block)
print(_kept_by_malloc() - before)
"""
    assert int(subprocess.check_output([sys.executable, "-c", program])) > 0.99 * 3 * (900 << 20)
