"""A grid of evaluations, as the command line words it: axes, and the cells that they span."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from itertools import product
from typing import Any

from cannonade.errors import InputError
from cannonade.spec import near_name, split_list, with_argument

_PARTS = ("attack", "defense")
_LONGEST = 120  # characters of a cell's directory; file systems take 255 bytes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What tells evaluations of one model on the same images apart, in words.

    Attributes:
        defense, attack: the calls that make them.
        eot: m, draws averaged at each step.
        average: what EOT averages.
        votes: n, predictions of a majority vote.
        target: a class, least_likely or random; None for an untargeted attack.
        seed: of every draw.
    """

    defense: str
    attack: str
    eot: int = 1
    average: str = "loss"
    votes: int = 500
    target: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Axis:
    """What varies along one side of a grid.

    Attributes:
        name: of a field of `Settings`, or `attack.ARGUMENT` or `defense.ARGUMENT`.
        values: as text.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One evaluation of a grid.

    Attributes:
        choices: the axes' names, each with its value as text.
        settings: all of its settings.
    """

    choices: tuple[tuple[str, str], ...]
    settings: Settings

    @property
    def text(self) -> str:
        """Its choices, for people."""
        return ", ".join(f"{axis}={value}" for axis, value in self.choices)

    @property
    def name(self) -> str:
        """Name of its directory: a function of its choices alone, whatever the order of the axes."""
        exact = ",".join(f"{axis}={value}" for axis, value in sorted(self.choices))
        plain = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", exact)[:_LONGEST].rstrip("-")
        return plain if plain == exact else f"{plain}-{sha256(exact.encode()).hexdigest()[:8]}"


def parse_axis(text: str) -> Axis:
    """Read one axis, such as `attack.steps=10,50`, `eot=1,5` or `defense=rotation(degrees=10),rotation(degrees=30)`.

    Raises:
        InputError: it is not one, or names nothing that can vary; names the valid ones.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals:
        raise InputError(f"grid must be NAME=VALUE,VALUE,… such as attack.steps=10,50, got {text!r}")
    part, dot, argument = name.partition(".")
    valid = [field.name for field in fields(Settings)]
    if not (part in _PARTS and argument.isidentifier() if dot else name in valid):
        raise InputError(
            f"grid cannot be over {name!r}{near_name(name, valid)}; one of: {', '.join(valid)}, attack.ARGUMENT, "
            "defense.ARGUMENT"
        )
    listed = tuple(split_list(values, f"grid over {name}"))
    for value in listed:
        if listed.count(value) > 1:
            raise InputError(f"grid over {name} must have each value once, got {value} {listed.count(value)} times")
        if not dot:
            _value(name, value)
    return Axis(name, listed)


def expand(axes: Sequence[Axis], base: Settings) -> list[Cell]:
    """All cells of a grid, the last axis the fastest; one cell where there are no axes.

    Args:
        axes: what varies.
        base: the settings, where no axis says otherwise.

    Raises:
        InputError: two axes of one name, or arguments for what is no call.
    """
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"grid must have one axis of each name, got {name} {names.count(name)} times")
    grid = product(*([(axis.name, value) for value in axis.values] for axis in axes))
    return [Cell(choices, _chosen(base, choices)) for choices in grid]


def _chosen(settings: Settings, choices: Sequence[tuple[str, str]]) -> Settings:
    for name, value in sorted(choices, key=lambda choice: "." in choice[0]):  # a whole part before its arguments
        part, dot, argument = name.partition(".")
        content: Any = with_argument(getattr(settings, part), argument, value, part) if dot else _value(part, value)
        settings = replace(settings, **{part: content})
    return settings


def _value(name: str, text: str) -> Any:
    """A value of a field of `Settings` from its text."""
    if name not in ("eot", "votes", "seed"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"grid over {name} must be of integers, got {text}") from error
