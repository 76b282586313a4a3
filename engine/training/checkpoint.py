"""Where a training stands, on the disk: whole at every moment, whatever happens while it is written."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from cannonade.errors import InputError
from cannonade.files import replace_file

STATE = "training.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A moment between two steps.

    Attributes:
        weights: the network's, batch-norm statistics included.
        state: everything else that the next step depends on: tensors, numbers and text in plain containers.
    """

    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Write the weights under a new name, then the state that names them, then remove the weights before.

    The state's file is replaced in one step, so that what it names is always whole: the old weights or the new ones.

    Args:
        folder: of the run.
        name: of the weights, another one each time.
        checkpoint: what to write.

    Raises:
        InputError: it could not be written; the checkpoint before is intact.
    """
    weights = folder / "checkpoints" / f"{name}.safetensors"
    content = weight_bytes(checkpoint.weights)
    state = dict(checkpoint.state) | {"weights": weights.name, "sha256": hashlib.sha256(content).hexdigest()}
    buffer = BytesIO()
    torch.save(state, buffer)
    write(weights, content)
    write(folder / STATE, buffer.getvalue())
    for old in weights.parent.iterdir():
        if old != weights:
            old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a run's folder, on the CPU.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        content = (folder / "checkpoints" / str(state["weights"])).read_bytes()
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            raise InputError(f"{path} must name weights as they were written, {state['weights']} has changed")
        return Checkpoint(load(content), state)
    except InputError:
        raise
    except Exception as error:  # damaged bytes are answered with a dozen unrelated types of error
        kind = type(error).__name__
        raise InputError(f"a training to resume must have a sound checkpoint, {path} is not one ({kind})") from error


def weight_bytes(weights: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of weights."""
    return save({name: value.detach().cpu().contiguous() for name, value in weights.items()}, metadata)


def write(path: Path, content: bytes) -> None:
    """Replace a file of a training in one step.

    Raises:
        InputError: it could not be written.
    """
    with explained(path):
        path.parent.mkdir(exist_ok=True)
        replace_file(path, content)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of a file that cannot be written what became of the training.

    Raises:
        InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror}); what was written before is intact: make room, then --resume"
        ) from error
