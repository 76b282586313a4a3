"""The command line: one file per command. Torch takes seconds to import, so commands import it themselves, when called."""

import sys
from pathlib import Path

from rich.console import Console

from cannonade.cli import (
    advise,
    bench,
    calibrate,
    certify,
    demo,
    evaluate,
    finetune,
    info,
    report,
    reproduce,
    sanity,
    transforms,
    vote,
)
from cannonade.cli.app import app
from cannonade.cli.memory import keep_freed_memory
from cannonade.errors import InputError

__all__ = [
    "advise",
    "bench",
    "calibrate",
    "certify",
    "demo",
    "evaluate",
    "finetune",
    "info",
    "main",
    "report",
    "reproduce",
    "sanity",
    "transforms",
    "vote",
]


def main() -> None:
    """Entry point: bad input is answered with one line and status 2, never a traceback."""
    keep_freed_memory()
    sys.path.append(str(Path.cwd()))  # so that package.module:function finds a module of the user's own
    try:
        app()
    except (InputError, OSError) as error:
        Console(stderr=True).print(f"cannonade: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
