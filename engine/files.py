"""Files that are whole at every moment: replaced in one step, or added to line by line."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def replace_file(target: Path, content: bytes) -> None:
    """Write a file beside the old one, wait for the disk, and put it in its place: a reader sees the old one or the new one.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk its piece would only be in the way
        raise
    partial.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name is on the disk too
    finally:
        os.close(folder)


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records to a file of JSON lines; they are on the disk afterwards."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):
            file.write(b"\n")  # a process died while it wrote: its piece of a line must not spoil the next one
        file.writelines(json.dumps(record).encode() + b"\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
