"""A bench's JSON file as Markdown: what it was set to, and a table for each of its tables."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cannonade.bench.json_files import settings, tables

_HARDWARE = "hardware."


def hardware(content: Any) -> list[tuple[str, Any]]:
    """What a file says it was measured on: names and values."""
    return [(name.removeprefix(_HARDWARE), value) for name, value in settings(content) if name.startswith(_HARDWARE)]


def sentences(entries: Iterable[tuple[str, Any]]) -> str:
    """Names and values in one line."""
    return ", ".join(f"{name} {_cell(value)}" for name, value in entries)


def as_markdown(content: Any) -> str:
    """Settings in a line, then the tables, each under its name where there are several.

    Args:
        content: of a file that a bench wrote.
    """
    beside = [entry for entry in settings(content) if not entry[0].startswith(_HARDWARE)]
    parts = [sentences(beside)] if beside else []
    found = list(tables(content))
    for path, rows in found:
        if len(found) > 1:
            parts.append(f"**{_text(', '.join(path))}**")
        parts.append(table(rows))
    return "\n\n".join(parts)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as a table; a column for every key of any of them, those of nested objects joined by dots.

    Numbers have four digits, what a row lacks and what was not measured is a dash.
    """
    flat = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in flat)]
    lines[0] = [_text(key) for key in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " – ".join(map(_cell, value))
    return _text(str(value))


def _text(text: str) -> str:
    """Text that ends neither its cell nor its row."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
