"""The files of a run: written atomically, never over another run."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cannonade.errors import InputError


class RunDirectory:
    """`run.json`, `images.jsonl`, `summary.json`, `report.html`, and images in `adversarial/` and `pictures/`.

    Args:
        path: the directory; see `create` for a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """Make a new, empty run directory.

        Raises:
            InputError: it holds something already, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise InputError(
                    f"out must be a new or empty directory, {path} holds another run: choose another --out"
                )
            for folder in ("adversarial", "pictures"):
                (path / folder).mkdir()
        except OSError as error:
            raise InputError(f"out must be a directory that can be written, {path} is not: {error.strerror}") from error
        return cls(path)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file in one step: whoever reads it sees the old one or the new one."""
        target = self.path / name
        partial = target.with_suffix(target.suffix + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    def append_images(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add finished images to `images.jsonl`, one line each, and wait until they are on the disk."""
        with (self.path / "images.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def write_tensors(self, folder: str, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Save one batch of `adversarial` or `pictures` as safetensors, in one step."""
        target = self.path / folder / f"batch-{number:06d}.safetensors"
        partial = target.with_suffix(".partial")
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run."""
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(f"{self.path} must be a finished run with a readable {name}: {error}") from error
        return content

    def read_images(self) -> list[dict[str, Any]]:
        """The records of `images.jsonl`, in the order of their ids."""
        lines = (self.path / "images.jsonl").read_text(encoding="utf-8").splitlines()
        return sorted((json.loads(line) for line in lines), key=lambda record: int(record["id"]))

    def read_tensors(self, folder: str) -> Iterable[dict[str, Tensor]]:
        """The batches of `adversarial` or `pictures`, in order."""
        for file in sorted((self.path / folder).glob("batch-*.safetensors")):
            yield load_file(file)
