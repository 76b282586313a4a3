"""The files of a run: written atomically, never over another run, and made whole again after whatever interrupted it."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from cannonade.errors import InputError

_FOLDERS = ("adversarial", "pictures")


@dataclass(frozen=True)
class Finished:
    """One finished batch, as a line of `batches.jsonl` has it.

    Attributes:
        number: of the batch.
        ids: of its images.
        checksums: SHA-256 of its files, by their names in the directory.
        records: SHA-256 of its lines in `images.jsonl`.
        seconds: that it took.
    """

    number: int
    ids: list[int]
    checksums: dict[str, str]
    records: str
    seconds: float


def checksum_of(records: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of records as lines of JSON, which does not change when they are read and written again."""
    return hashlib.sha256("\n".join(json.dumps(record) for record in records).encode()).hexdigest()


class RunDirectory:
    """`run.json`, `images.jsonl`, `batches.jsonl`, `summary.json`, `report.html`, images in `adversarial/` and `pictures/`.

    A batch is finished once its line stands in `batches.jsonl`, which is written after everything else of it.

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
                    f"out must be a new or empty directory, {path} holds another run: choose another --out, or --resume"
                )
            for folder in _FOLDERS:
                (path / folder).mkdir()
        except OSError as error:
            raise InputError(f"out must be a directory that can be written, {path} is not: {error.strerror}") from error
        return cls(path)

    @property
    def begun(self) -> bool:
        """Whether a run was begun here: the folders are made first, `run.json` is written when all is known."""
        return (self.path / "run.json").is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine, or of a file system that shares locks, from writing here.

        Raises:
            InputError: another one does.
        """
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"only one process may write a run, another one writes {self.path}: wait for it or stop it"
                ) from error
            yield

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file in one step: whoever reads it sees the old one or the new one."""
        self._replace(self.path / name, text.encode())

    def write_tensors(self, folder: str, number: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Save one batch of `adversarial` or `pictures` as safetensors, in one step; returns its name and checksum."""
        target = self._shard(folder, number)
        content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
        self._replace(target, content)
        return {str(target.relative_to(self.path)): hashlib.sha256(content).hexdigest()}

    def finish_batch(self, finished: Finished, records: Iterable[Mapping[str, Any]]) -> None:
        """Add a batch's images to `images.jsonl`, one line each, then its own line; both are on the disk afterwards."""
        self._append("images.jsonl", records)
        self._append("batches.jsonl", [vars(finished)])

    def recover(self, batches: Sequence[Sequence[int]]) -> tuple[dict[int, Finished], list[dict[str, Any]], list[str]]:
        """What is finished and sound; everything else is removed, so that it can be made again.

        Args:
            batches: the ids of each batch's images, in the run's order.

        Returns:
            The finished batches by number, their images' records in the order of the batches, and what was found damaged.
        """
        lines = {int(line["number"]): line for line in self._lines("batches.jsonl") if {"number", "ids"} <= line.keys()}
        found = {int(record["id"]): record for record in self._lines("images.jsonl") if "id" in record}
        sound: dict[int, Finished] = {}
        damaged = []
        for number, ids in enumerate(batches):
            if number not in lines:
                continue
            try:
                finished = Finished(**lines[number])
                wrong = [name for name, checksum in finished.checksums.items() if self._checksum(name) != checksum]
            except (TypeError, AttributeError):
                wrong = ["its line in batches.jsonl"]
            if not wrong:
                own = [found[image] for image in ids if image in found]
                if finished.ids != list(ids) or finished.records != checksum_of(own):
                    wrong = ["its lines in images.jsonl"]
            if wrong:
                damaged.append(f"batch {number}: {', '.join(wrong)}")
            else:
                sound[number] = finished
        records = [found[image] for number in sorted(sound) for image in sound[number].ids]
        self.write_text("images.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        self.write_text("batches.jsonl", "".join(json.dumps(vars(sound[number])) + "\n" for number in sorted(sound)))
        kept = {name for finished in sound.values() for name in finished.checksums}
        for folder in _FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
            for file in (self.path / folder).iterdir():
                if str(file.relative_to(self.path)) not in kept:
                    file.unlink()
        return sound, records, damaged

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run."""
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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

    def _shard(self, folder: str, number: int) -> Path:
        return self.path / folder / f"batch-{number:06d}.safetensors"

    def _checksum(self, name: str) -> str:
        path = self.path / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a file with one on each line; a line cut short or overwritten is passed over."""
        path = self.path / name
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                content = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError):
                continue
            if isinstance(content, dict):
                yield content

    def _append(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, target: Path, content: bytes) -> None:
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is on the disk too
        finally:
            os.close(folder)
