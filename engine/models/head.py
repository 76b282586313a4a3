"""The last layer of a classifier: where it is, and another one for other classes."""

from torch import nn

from cannonade.errors import InputError


def find_head(module: nn.Module) -> tuple[str, nn.Linear]:
    """The layer that makes the logits, the last linear one, and its name.

    Raises:
        InputError: there is none.
    """
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not found:
        raise InputError(f"a model to fine-tune must end in a linear layer, {type(module).__name__} has none")
    return found[-1]


def replace_head(module: nn.Module, num_classes: int) -> nn.Module:
    """The module with a new, random last layer of `num_classes` logits; it is changed in place."""
    name, old = find_head(module)
    new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    if not name:
        return new
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, new)
    return module
