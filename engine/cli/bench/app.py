"""The group that the benches register with, and what they share."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from cannonade.cli.app import app
from cannonade.errors import InputError

bench = typer.Typer(help="Speed, memory and agreement with what the engine is compared to.", no_args_is_help=True)
app.add_typer(bench, name="bench")


def need_oracles() -> None:
    """Raises InputError where a package that the oracles call is not installed."""
    missing = [name for name in ("skimage", "scipy", "pywt") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"bench needs what it compares with, {', '.join(missing)} not installed: pip install 'cannonade[bench]'"
        )


def save(out: Path | None, record: Mapping[str, Any]) -> None:
    """Write figures as JSON, after what they were measured on; nothing where there is no file."""
    from cannonade.bench.hardware import describe

    if out is not None:
        out.write_text(json.dumps({"hardware": describe()} | dict(record), indent=2) + "\n")


def save_rows(out: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write figures that were computed, not measured, as a JSON list; nothing where there is no file."""
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n")


def yes(value: bool) -> str:
    """A truth value in a table."""
    return "yes" if value else "no"
