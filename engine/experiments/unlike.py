"""What of a study was run with other settings than the paper's, in sentences."""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_SAID = {
    "defenses": "defense {}", "goals": "goal {}", "strengths": "k x m {}", "step_sizes": "step sizes {}", "eps": "eps {}",
    "attack": "{}", "samples": "m = {}", "limit": "{} images", "votes": "{} votes", "stop": "stop {}",
    "backward": "backward {}",
}  # fmt: skip
_SAME = ("title", "published")  # of one study at all scales
_MOST = 4  # values that are listed


def with_own(settings: "Settings", **own: Any) -> "Settings":
    """The settings with a user's own in their place.

    Args:
        settings: a dataclass.
        own: by field; None keeps what is there.
    """
    return replace(settings, **{name: value for name, value in own.items() if value is not None})


def differences(paper: "Settings", ran: "Settings") -> tuple[str, ...]:
    """A sentence for each setting that differs, such as "120 images, not 1000 images"."""
    return tuple(
        f"{_SAID[field.name].format(_text(own))}, not {_SAID[field.name].format(_text(original))}"
        for field in fields(paper)
        if field.name not in _SAME and (own := getattr(ran, field.name)) != (original := getattr(paper, field.name))
    )


def _text(value: Any) -> str:
    """A setting, or all of several; of many the first and the last."""
    if not isinstance(value, tuple):
        return str(value)
    words = ["x".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in value]
    return ", ".join(words) if len(words) <= _MOST else f"{words[0]} … {words[-1]} ({len(words)})"
