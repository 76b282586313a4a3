"""What a paper calls a defense, by name. A transform is a defense by itself, so every registered one is here."""

import cannonade.defenses.activation_pruning
import cannonade.defenses.bart
import cannonade.defenses.kwta
import cannonade.defenses.odds  # noqa: F401  # these imports register the defenses
from cannonade.defenses.model_side import MODEL_SIDE, ModelDefense
from cannonade.spec import build
from cannonade.transforms import REGISTRY, Transform

DEFENSES: dict[str, type[Transform]] = REGISTRY
Defense = Transform | ModelDefense


def build_defense(text: str) -> Defense:
    """Make a defense from its call, for example `rotation(degrees=90)` or `kwta(fraction=0.1)`.

    Raises:
        InputError: an unknown name or argument; names the valid ones.

    Example:
        >>> build_defense("bart(k=5)").k
        5
    """
    parts: dict[str, type[Transform] | type[ModelDefense]] = {**REGISTRY, **MODEL_SIDE}
    return build(text, parts, "defense")


def build_transform(text: str) -> Transform:
    """The same for what transforms images and nothing else."""
    return build(text, REGISTRY, "transform")
