"""Saving what a transform drew, and applying it again: to other images, in another process, bit for bit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cannonade.errors import InputError
from cannonade.transforms.base import REGISTRY, Params, Transform


def save_program(path: Path, transform: Transform, params: Params) -> None:
    """Write a transform and the parameters it sampled to one safetensors file.

    Args:
        path: of the file; replaced if it exists.
        transform: what sampled them; its settings go into the file's metadata as JSON.
        params: what `transform.sample` returned.
    """
    tensors = {key: value.contiguous().cpu() for key, value in params.items()}
    save_file(tensors, path, metadata={"transform": json.dumps(_to_json(transform))})


def load_program(path: Path) -> tuple[Transform, dict[str, torch.Tensor]]:
    """Read what `save_program` wrote: `transform.transform(images, params)` then does the same again.

    Raises:
        InputError: no such file, or not one that `save_program` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get("transform", "")
            params = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # a safetensors file is no mapping
        return _from_json(json.loads(description)), params
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"a program must be a file that save_program wrote, {path} is not: {error}") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, Transform):
        fields = {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"transform": value.name, "fields": fields}
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist()}
    if isinstance(value, tuple):
        return [_to_json(element) for element in value]
    return value


def _from_json(value: Any) -> Any:
    """JSON has lists where every sequence of ours is a tuple."""
    if isinstance(value, list):
        return tuple(_from_json(element) for element in value)
    if isinstance(value, dict) and "tensor" in value:
        return torch.tensor(value["tensor"])
    if isinstance(value, dict):
        return REGISTRY[value["transform"]](**{key: _from_json(own) for key, own in value["fields"].items()})
    return value
