"""Run tests against a native library built with sanitizers: `python sanitized.py LIBRARY ARGUMENTS…`."""

import ctypes
import sys

import pytest

from cannonade.kernels import native


def main() -> int:
    """Put the library in the place of the installed one, then run pytest."""
    library = ctypes.CDLL(sys.argv[1])
    native._library = lambda: library
    return pytest.main([*sys.argv[2:], "--quiet", "-W", "ignore"])


if __name__ == "__main__":
    sys.exit(main())
