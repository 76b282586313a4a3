"""Two JSON files of one bench, row by row: what changed between versions or machines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cannonade.bench.json_files import read, settings, tables
from cannonade.errors import InputError


@dataclass(frozen=True)
class Change:
    """One figure in both files.

    Attributes:
        row: what it is of: everything of its row that is no measurement, after what its table stands under.
        figure: its name.
        first, second: its values.
    """

    row: str
    figure: str
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """second / first."""
        return self.second / self.first if self.first else float("inf") if self.second else 1.0


@dataclass(frozen=True)
class Comparison:
    """What two files have in common, and what not.

    Attributes:
        changes: figures in both.
        missing, new: rows that only the first, or only the second, has.
        context: what of hardware, versions and settings differs: name, first, second.
    """

    changes: list[Change]
    missing: list[str]
    new: list[str]
    context: list[tuple[str, Any, Any]]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two files that the same `cannonade bench` command wrote with --out.

    Rows belong together where everything that is no measurement, text, truth values and whole numbers, is equal.

    Raises:
        InputError: a file is none, or the two have no row in common.
    """
    contents = [read(path) for path in (first, second)]
    one, other = (dict(_rows(content)) for content in contents)
    shared = [name for name in one if name in other]
    if not shared:
        raise InputError(f"files must be of the same bench and have rows in common, {first} and {second} have none")
    changes = [
        Change(name, figure, value, other[name][figure])
        for name in shared
        for figure, value in one[name].items()
        if figure in other[name]
    ]
    beside = [dict(settings(content)) for content in contents]
    names = dict.fromkeys((*beside[0], *beside[1]))
    context = [(name, beside[0].get(name), beside[1].get(name)) for name in names]
    return Comparison(
        changes,
        [name for name in one if name not in other],
        [name for name in other if name not in one],
        [entry for entry in context if entry[1] != entry[2]],
    )


def _rows(content: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Every row of every table in a file: its name and its figures."""
    for path, rows in tables(content):
        for row in rows:
            figures = dict(_numbers(row))
            words = (f"{key}={value}" for key, value in row.items() if isinstance(value, str | bool | int))
            if figures:
                yield ", ".join((*path[:-1], *words)), figures


def _numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, float):
            yield prefix + key, value
        elif isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
