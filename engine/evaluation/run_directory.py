"""The files of a run: written atomically, never over another run, and made whole again after whatever interrupted it."""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from safetensors.torch import load_file, save
from torch import Tensor

from cannonade.errors import InputError
from cannonade.files import append_lines, replace_file

_FOLDERS = ("adversarial", "pictures")
_OF_THE_WHOLE = ("summary.json", "report.html")
# Seconds between looks at batches that other processes have claimed; ever longer, so that a thousand that have nothing left to
# do until the last batches are done do not storm the file system.
PATIENCE, LONGEST_PATIENCE = 0.2, 10.0
TRIES = 16  # claims refused in a row, after which a process waits: few batches are free

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class Finished:
    """One finished batch, as a line of `batches.jsonl` has it.

    Attributes:
        number: of the batch.
        ids: of its images.
        checksums: SHA-256 of its files, by their names in the directory.
        records: SHA-256 of its lines in `images.jsonl`.
        chunk: rows of its smallest passes, fewer than the run's where memory ran out.
        seconds: that it took.
        split: the same by part.
    """

    number: int
    ids: list[int]
    checksums: dict[str, str]
    records: str
    chunk: int
    seconds: float
    split: dict[str, float]


Summary = Callable[[list[dict[str, Any]], list[Finished]], dict[str, Any]]


def checksum_of(records: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of records as lines of JSON, which does not change when they are read and written again."""
    return hashlib.sha256("\n".join(json.dumps(record) for record in records).encode()).hexdigest()


def _objects(lines: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a file with one on each line; a line cut short or overwritten is passed over."""
    for line in lines.splitlines():
        try:
            content = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError):
            continue
        if isinstance(content, dict):
            yield content


def _own_number() -> int:
    """Of this process: processes of one machine differ, those of several most likely do."""
    name = f"{socket.gethostname()} {os.getpid()}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def _taken(file: IO[str], kind: int) -> bool:
    """Whether a lock could be had at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class RunDirectory:
    """`run.json`, `images.jsonl`, `batches.jsonl`, `summary.json`, `report.html`, images in `adversarial/` and `pictures/`.

    A batch is finished once its line stands in `batches.jsonl`, which is written after everything else of it.

    Args:
        path: the directory; see `writing`.

    Attributes:
        chunks: rows of the smallest passes of batches that `recover` found to be done again, where they are known.
    """

    _gate: IO[str]
    _file: tuple[int, int]  # device and inode of `batches.jsonl` as it was read last
    _read: int  # bytes of it
    _seen: set[int]  # finished batches in those

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks: dict[int, int] = {}
        self._forget()

    @property
    def begun(self) -> bool:
        """Whether a run was begun here: its `run.json` is written when all is known."""
        return (self.path / "run.json").is_file()

    @contextmanager
    def writing(self, shared: bool, prepare: Callable[[bool], Prepared]) -> Iterator[Prepared]:
        """Write here, alone or beside other processes, for as long as the context lasts.

        Locks are those of the file system, which a process that dies lets go; on a network it must share them (NFS 4 does).

        Args:
            shared: others may write too; they must have said so as well.
            prepare: called before anyone else can begin, with whether nobody else writes; its result is the context's.

        Raises:
            InputError: the directory cannot be written, or another process writes it that does not share it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            gate, presence = ((self.path / name).open("a") for name in ("lock", "working"))
        except OSError as error:
            raise InputError(
                f"out must be a directory that can be written, {self.path} is not: {error.strerror}"
            ) from error
        with gate, presence:
            self._gate = gate
            with self._alone():
                alone = _taken(presence, fcntl.LOCK_EX)
                if not alone and not (shared and _taken(presence, fcntl.LOCK_SH)):
                    raise InputError(
                        f"only one process may write a run, another one writes {self.path}: wait for it, or --join it"
                    )
                prepared = prepare(alone)
                if shared:
                    _taken(presence, fcntl.LOCK_SH)
            yield prepared

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let processes that share a run, once it is finished, replace the same file one after the other."""
        with (self.path / "lock").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    def check_empty(self) -> None:
        """Raise InputError where something is here but what a run leaves that ended before it had begun."""
        for path in self.path.iterdir():
            leftover = path.name in ("lock", "working", "run.json.partial", "grid.json.partial")
            if not leftover and not (path.name in _FOLDERS and path.is_dir() and not any(path.iterdir())):
                raise InputError(
                    f"out must be a new or empty directory, {self.path} holds another run: choose another --out, or --resume"
                )

    def unfinished(self, numbers: Sequence[int], shared: bool) -> Iterator[int]:
        """The batches to do, until all are finished; one is this process's own until the next is asked for.

        Beside other processes a batch is claimed by a lock on a file of its own: that of a process that dies is taken over.
        Each goes through them in an order of its own, so that a thousand do not all ask for the same ones.

        Args:
            numbers: of the batches.
            shared: whether other processes write here too.
        """
        own_order = np.random.default_rng(_own_number())
        patience = PATIENCE
        while order := self._open(numbers):
            refused, idle = 0, True
            for number in own_order.permutation(order).tolist() if shared else order:
                if not shared:
                    yield number
                    idle = False
                    continue
                if number in self.finished_numbers():
                    continue
                with self.claim(number) as own:
                    if own and number not in self.finished_numbers():
                        yield number
                        idle = False
                    refused = 0 if own else refused + 1
                if refused == TRIES:
                    break
            if idle:
                time.sleep(patience)
            patience = min(2 * patience, LONGEST_PATIENCE) if idle else PATIENCE

    def _open(self, numbers: Sequence[int]) -> list[int]:
        """Those of the batches that are not finished."""
        finished = self.finished_numbers()
        return [number for number in numbers if number not in finished]

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file in one step: whoever reads it sees the old one or the new one."""
        replace_file(self.path / name, text.encode())

    def write_tensors(self, folder: str, number: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Save one batch of `adversarial` or `pictures` as safetensors, in one step; returns its name and checksum."""
        target = self._shard(folder, number)
        content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
        replace_file(target, content)
        return {str(target.relative_to(self.path)): hashlib.sha256(content).hexdigest()}

    def take_file(self, other: "RunDirectory", name: str) -> None:
        """Copy a file of another run's batch, in one step."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        replace_file(target, (other.path / name).read_bytes())

    def finish_batch(self, finished: Finished, records: Iterable[Mapping[str, Any]]) -> None:
        """Add a batch's images to `images.jsonl`, one line each, then its own line; both are on the disk afterwards."""
        with self._alone():
            append_lines(self.path / "images.jsonl", records)
            append_lines(self.path / "batches.jsonl", [vars(finished)])

    def finish(self, batches: Sequence[Sequence[int]], summary: Summary) -> bool:
        """Check everything once more and write `summary.json`, unless another process has done it.

        Args:
            batches: the ids of each batch's images, in the run's order.
            summary: makes the summary of the records and the finished batches.

        Returns:
            False where something was damaged and is to be done again.
        """
        with self._alone():
            if (self.path / "summary.json").is_file():
                return True
            sound, records, _ = self.recover(batches)
            if len(sound) < len(batches):
                return False
            self.write_json("summary.json", summary(records, list(sound.values())))
            shutil.rmtree(self.path / "claims", ignore_errors=True)
            return True

    def recover(self, batches: Sequence[Sequence[int]]) -> tuple[dict[int, Finished], list[dict[str, Any]], list[str]]:
        """What is finished and sound; everything else is removed, and what was made of the whole, to be made again.

        Args:
            batches: the ids of each batch's images, in the run's order.

        Returns:
            The finished batches by number, their images' records in the order of the batches, and what was found damaged.
        """
        sound, records, damaged = self.read_sound(batches)
        self.write_text("images.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        self.write_text("batches.jsonl", "".join(json.dumps(vars(finished)) + "\n" for finished in sound.values()))
        kept = {name for finished in sound.values() for name in finished.checksums}
        for folder in _FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
            for file in (self.path / folder).iterdir():
                if str(file.relative_to(self.path)) not in kept:
                    file.unlink()
        for name in _OF_THE_WHOLE:
            (self.path / name).unlink(missing_ok=True)
        self._forget()
        return sound, records, damaged

    def read_sound(
        self, batches: Sequence[Sequence[int] | None]
    ) -> tuple[dict[int, Finished], list[dict[str, Any]], list[str]]:
        """As `recover`, but nothing is changed.

        Args:
            batches: the ids of each batch's images, in the run's order; None where whatever stands there is believed.
        """
        known = self.read_lines()
        sound: dict[int, Finished] = {}
        found, damaged = [], []
        for number, ids in enumerate(batches):
            finished, records = known.get(number, (None, []))
            if finished is None:
                if number in self.finished_numbers():
                    damaged.append(f"batch {number}: its lines")
                continue
            self.chunks[number] = finished.chunk
            wrong = [name for name, checksum in finished.checksums.items() if self._checksum(name) != checksum]
            if ids is not None and finished.ids != list(ids):
                wrong.append("its ids")
            if wrong:
                damaged.append(f"batch {number}: {', '.join(wrong)}")
            else:
                sound[number] = finished
                found += records
        return sound, found, damaged

    def read_lines(self) -> dict[int, tuple[Finished, list[dict[str, Any]]]]:
        """The finished batches by number, with their images' records, whose lines agree with each other."""
        found = {int(record["id"]): record for record in self._lines("images.jsonl") if "id" in record}
        batches = {}
        for line in self._lines("batches.jsonl"):
            try:
                finished = Finished(**line)
                records = [found[image] for image in finished.ids if image in found]
                if finished.records == checksum_of(records) and isinstance(finished.checksums, dict):
                    batches[int(finished.number)] = finished, records
            except (TypeError, ValueError):
                continue
        return batches

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

    def count_images(self) -> int:
        """How many images are finished, as far as a glance tells."""
        return sum("id" in record for record in self._lines("images.jsonl"))

    def read_pictures(self) -> Iterable[dict[str, Tensor]]:
        """The batches of `pictures`, in order."""
        for file in sorted((self.path / "pictures").glob("batch-*.safetensors")):
            yield load_file(file)

    def read_adversarial(self, ids: Collection[int]) -> dict[int, Tensor]:
        """The adversarial images [3, H, W] of those of the ids that were attacked; other batches are not read."""
        found: dict[int, Tensor] = {}
        for finished, _ in self.read_lines().values():
            if not set(finished.ids).isdisjoint(ids):
                batch = load_file(self._shard("adversarial", finished.number))
                found |= dict(zip(batch["ids"].tolist(), batch["images"], strict=True))
        return {image: found[image] for image in ids if image in found}

    def _shard(self, folder: str, number: int) -> Path:
        return self.path / folder / f"batch-{number:06d}.safetensors"

    def _checksum(self, name: str) -> str:
        path = self.path / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        return _objects(path.read_bytes() if path.is_file() else b"")

    def finished_numbers(self) -> set[int]:
        """Numbers of the finished batches; of a file that only grew since the last look, what is new is read."""
        try:
            file = (self.path / "batches.jsonl").open("rb")
        except FileNotFoundError:
            return set()
        with file:
            state = os.fstat(file.fileno())
            if (state.st_dev, state.st_ino) != self._file or state.st_size < self._read:
                self._forget()
            self._file = (state.st_dev, state.st_ino)
            if state.st_size > self._read:
                file.seek(self._read)
                new, newline, _ = file.read().rpartition(b"\n")
                self._read += len(new) + len(newline)
                self._seen |= {int(line["number"]) for line in _objects(new) if "number" in line}
        return self._seen

    def _forget(self) -> None:
        """Read `batches.jsonl` from its beginning the next time."""
        self._file, self._read, self._seen = (0, 0), 0, set()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the gate, for as long as no other process must come between."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Whether a batch is this process's to do, for as long as the context lasts."""
        folder = self.path / "claims"
        folder.mkdir(exist_ok=True)
        with (folder / f"{number:06d}").open("a") as file:
            yield _taken(file, fcntl.LOCK_EX)
