"""The JSON files that benches write with --out: their tables, and what stands beside these."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cannonade.errors import InputError


def read(path: Path) -> Any:
    """The content of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"a bench's JSON file must be readable, {path} is not: {error}") from error


def tables(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    """Every table of a file, with the names that lead to it: the lists of objects, or the file itself where it is one."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from tables(value, (*path, name))
    elif isinstance(content, list) and (rows := [row for row in content if isinstance(row, dict)]):
        yield path, rows


def settings(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What stands beside the tables, hardware and versions among it, nesting joined by dots."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield prefix + key, value
