"""Weight files: reading them without running anything they hold, and fitting them to a module."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cannonade.errors import InputError

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's
_NAMED = 4  # keys listed in a message before the rest are counted


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a weights file as it is: `.safetensors`, or anything else as `torch.save` writes it.

    Only tensors and plain containers are read (`weights_only=True`), so a file cannot run code.

    Raises:
        InputError: there is no such file, or it cannot be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights must be a file, got {path}: {'a folder' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the parsers answer damaged bytes with a dozen unrelated types of error
        raise InputError(f"weights must be a safetensors file or a state dict, got {path}: {_reason(error)}") from error
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"weights must be a state dict, got a {type(checkpoint).__name__} in {path}")
    return checkpoint


def _reason(error: Exception) -> str:
    """The one line of a reader's error that says what is wrong, without its advice to read unsafely."""
    text = str(error)
    refused = re.search(r"unsupported global:? (?:GLOBAL )?(\w[\w.]*)", text, re.IGNORECASE)
    if refused:
        return f"it holds an object ({refused[1]}) that could run code; save tensors alone, as in module.state_dict()"
    detail = re.search(r"WeightsUnpickler error:\s*(\S.*)", text) or re.match("(.*)", text)
    sentence = detail[1].split(". ")[0][:160] if detail else ""
    return f"it is damaged or of another format ({type(error).__name__}{': ' if sentence else ''}{sentence})"


def unwrap(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefixes that wrappers put before every key.

    Args:
        checkpoint: a state dict, or a mapping that holds one under `state_dict`, `model_state_dict` or `model`.
        source: where it came from, for messages.

    Raises:
        InputError: it holds no state dict.
    """
    inner = next((checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
    if inner is not None:
        return unwrap(inner, source)
    others = [str(key) for key, value in checkpoint.items() if not isinstance(value, Tensor)]
    if others or not checkpoint:
        found = f"other things under {_list(others)}" if others else "nothing"
        raise InputError(f"weights must be a state dict, tensors by name, got {found} in {source}")
    state = dict(checkpoint)
    while prefix := next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a weights file: `read_checkpoint`, then `unwrap`."""
    return unwrap(read_checkpoint(path), str(path))


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a module that it fits exactly; batch norms' `num_batches_tracked` may be absent.

    Args:
        module: receives the weights, in its own dtype.
        state: tensors by name.
        source: where they came from, for messages.

    Raises:
        InputError: names the missing keys, the unexpected ones and those of another shape.
    """
    own = module.state_dict()
    given = {key: value for key, value in state.items() if _counts(key)}
    needed = {key: value for key, value in own.items() if _counts(key)}
    reshaped = [
        f"{key} {list(given[key].shape)} instead of {list(needed[key].shape)}"
        for key in needed
        if key in given and given[key].shape != needed[key].shape
    ]
    faults = {
        "missing": [key for key in needed if key not in given],
        "unexpected": [key for key in given if key not in needed],
        "of another shape": reshaped,
    }
    if any(faults.values()):
        text = "; ".join(f"{fault}: {_list(keys)}" for fault, keys in faults.items() if keys)
        raise InputError(f"weights must fit {type(module).__name__}, got {source} with keys {text}")
    module.load_state_dict(given, strict=False)


def _counts(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _list(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
