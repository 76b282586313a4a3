"""The log of a training: JSON lines, and TensorBoard where it is installed."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cannonade.files import append_lines
from cannonade.training.checkpoint import explained, write


class Log:
    """`log.jsonl` with a line every few steps and one an epoch, and the same numbers for TensorBoard.

    Args:
        folder: of the run.
        step: of the checkpoint that the training goes on from: what was written after it will be written again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write(self._path, "".join(line + "\n" for line in kept).encode())
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Add a record with its `step`.

        Raises:
            InputError: it could not be written.
        """
        with explained(self._path):
            append_lines(self._path, [{"kind": kind, **record}])
            if self._board is not None:
                for name, value in _numbers(record):
                    self._board.add_scalar(f"{kind}/{name}", value, record["step"])
                self._board.flush()

    def close(self) -> None:
        """End TensorBoard's writing, which has a thread of its own."""
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    """The step of a line; of one cut short, past all others."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _numbers(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            found.append((prefix + name, float(value)))
    return found
