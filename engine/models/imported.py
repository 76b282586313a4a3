"""A user's own model, named by the function that makes it: `package.module:function`."""

import importlib
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models.weights import load_weights, read_state_dict


def call_function(name: str, weights: Path | None = None) -> nn.Module:
    """Import a module, call a function of it without arguments, and load weights into what it returns.

    Args:
        name: `package.module:function`.
        weights: a file that fits the module returned; None leaves it as it is.

    Returns:
        What the function returned: a module that maps [0, 1] images to logits.

    Raises:
        InputError: the name leads nowhere, the function needs arguments, or it does not return a module.
    """
    made = _find(name)()
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} must return a torch.nn.Module, got a {type(made).__name__}")
    if weights is not None:
        if isinstance(made, Classifier):
            raise InputError(f"{name} makes a Classifier, used as it is, so weights={weights} cannot go into it")
        load_weights(made, read_state_dict(weights), str(weights))
    return made


def _find(name: str) -> Callable[[], Any]:
    path, _, attribute = name.partition(":")
    if not path or path.startswith(".") or not attribute:
        raise InputError(f"a model of your own must be named package.module:function, got {name!r}")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise InputError(f"{path} of {name!r} must be importable: {error}; is its folder on PYTHONPATH?") from error
    function = getattr(module, attribute, None)
    if function is None:
        near = get_close_matches(attribute, dir(module), n=3)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise InputError(f"{path} has no {attribute!r}{hint}")
    if not callable(function):
        raise InputError(f"{name} must be a function that returns a torch.nn.Module, got a {type(function).__name__}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(f"{name} must need no arguments: {error}") from error
    found: Callable[[], Any] = function
    return found
