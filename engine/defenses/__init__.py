"""What a paper calls a defense, by name. A transform is a defense by itself, so every registered one is here."""

import cannonade.defenses.bart  # noqa: F401  # registers BaRT and its preset
from cannonade.spec import build
from cannonade.transforms import REGISTRY, Transform

DEFENSES: dict[str, type[Transform]] = REGISTRY


def build_defense(text: str) -> Transform:
    """Make a defense from its call, for example `rotation(degrees=90)`.

    Raises:
        InputError: an unknown name or argument; names the valid ones.

    Example:
        >>> build_defense("bart(k=5)").k
        5
    """
    return build(text, DEFENSES, "defense")
