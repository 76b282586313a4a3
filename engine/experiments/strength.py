"""Table 1 and Figures 1 and 2 as grids: does averaging over draws help at equal strength k·m? `strength_run.py` reads them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite
from typing import Any, Literal

from cannonade.errors import InputError
from cannonade.evaluation.grid import Cell, Settings
from cannonade.experiments.unlike import differences
from cannonade.spec import parse_number

Scale = Literal["full", "small"]
UNTARGETED, TARGETED = "untargeted", "targeted"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One of the paper's grids.

    Attributes:
        title: what the paper calls it.
        defenses: their calls.
        goals: untargeted, targeted, or both.
        strengths: the pairs of k steps and m draws a step.
        step_sizes: of which the best counts, as text.
        eps: radius of the attacks in L∞, as text.
        limit: images that are evaluated.
        votes: n.
        stop: how votes end early.
        published: success rates of the paper, by (defense, goal, k, m).
    """

    title: str
    defenses: tuple[str, ...]
    goals: tuple[str, ...]
    strengths: tuple[tuple[int, int], ...]
    step_sizes: tuple[str, ...]
    eps: str = "8/255"
    limit: int = 1000
    votes: int = 500
    stop: str = "none"
    published: Mapping[tuple[str, str, int, int], float]

    def __post_init__(self) -> None:
        for k, m in self.strengths:
            if k < 1 or m < 1:
                raise InputError(f"strength must be k x m of at least one step and one draw, got {k}x{m}")
        _check_distinct("strength", ((f"{k}x{m}", (k, m)) for k, m in self.strengths))
        sizes = [(text, parse_number(text, "step_size")) for text in self.step_sizes]
        for text, size in sizes:
            if not (size > 0 and isfinite(size)):
                raise InputError(f"step_size must be positive, such as 1/255, got {text!r}")
        _check_distinct("step_size", sizes)
        parse_number(self.eps, "eps")


def _check_distinct(name: str, values: Iterable[tuple[str, object]]) -> None:
    """Raise InputError where a value comes twice: it would be two names of one run."""
    seen: dict[object, str] = {}
    for text, value in values:
        if value in seen:
            raise InputError(f"each {name} must be given once, got {seen[value]!r} and {text!r}")
        seen[value] = text


_FULL = tuple(product((10, 20, 50, 100, 200, 500, 1000), (1, 5, 10, 20)))
_SMALL = tuple(product((10, 20, 50, 100), (1, 5)))
_STEP_SIZES = ("0.5/255", "1/255", "2/255", "4/255")
_ROTATION, _NOISE = "rotation(degrees=90)", "noise_injection"
_SIGMAS = ("smoothing(sigma=0.25)", "smoothing(sigma=0.5)")
_TABLE_1 = {
    (_ROTATION, UNTARGETED, 10, 5): 1.0, (_ROTATION, UNTARGETED, 50, 1): 1.0,
    (_ROTATION, TARGETED, 10, 5): 0.99, (_ROTATION, TARGETED, 50, 1): 0.99,
}  # fmt: skip
_FIGURE_2 = {(_SIGMAS[1], TARGETED, 100, 10): 0.403, (_SIGMAS[1], TARGETED, 1000, 1): 0.348}
_BOTH = (UNTARGETED, TARGETED)


def _scales(full: Study, **small: Any) -> dict[Scale, Study]:
    """A study, and what two cores can do of it."""
    return {"full": full, "small": replace(full, limit=120, votes=100, **small)}


STUDIES: dict[str, dict[Scale, Study]] = {
    "table1": _scales(
        Study(
            title="Table 1, random rotation", defenses=(_ROTATION,), goals=_BOTH, strengths=((10, 5), (50, 1)),
            step_sizes=("1/255", "2/255"), published=_TABLE_1,
        ),
    ),
    "figure1": _scales(
        Study(
            title="Figure 1, BaRT's noise injection", defenses=(_NOISE,), goals=_BOTH, strengths=_FULL,
            step_sizes=_STEP_SIZES, published={},
        ),
        strengths=_SMALL, step_sizes=("1/255", "2/255"),
    ),
    "figure2": _scales(
        Study(
            title="Figure 2, randomised smoothing", defenses=_SIGMAS, goals=(TARGETED,), strengths=_FULL,
            step_sizes=_STEP_SIZES, published=_FIGURE_2,
        ),
        strengths=_SMALL, step_sizes=("1/255", "2/255"),
    ),
}  # fmt: skip


def find_study(name: str, scale: str) -> Study:
    """A study of the paper.

    Args:
        name: "table1", "figure1" or "figure2".
        scale: "full", the paper's settings; "small", for two cores.

    Raises:
        InputError: there is no such study or scale.
    """
    if name not in STUDIES:
        raise InputError(f"a study must be one of {', '.join(STUDIES)}, got {name!r}")
    if scale not in ("full", "small"):
        raise InputError(f"scale must be full or small, got {scale!r}")
    return STUDIES[name]["full" if scale == "full" else "small"]


def changes_of(name: str, study: Study) -> tuple[str, ...]:
    """What of a study differs from the paper's settings, a sentence each."""
    return differences(STUDIES[name]["full"], study)


def parse_strength(text: str) -> tuple[int, int]:
    """k steps and m draws a step, from `50x1`."""
    found = re.fullmatch(r"([0-9]+)x([0-9]+)", text.strip())
    if not found:
        raise InputError(f"strength must be STEPSxDRAWS, such as 50x1 or 10x5, got {text!r}")
    return int(found[1]), int(found[2])


def parse_goal(text: str) -> str:
    """A goal by its name.

    Raises:
        InputError: there is no such goal.
    """
    if text not in _BOTH:
        raise InputError(f"goal must be {' or '.join(_BOTH)}, got {text!r}")
    return text


def cells_of(study: Study, *, target: str = "random", seed: int = 0) -> list[Cell]:
    """The evaluations of a study, which `assemble` and `run_grid` take.

    Args:
        study: which.
        target: of the targeted attacks; the paper does not say how it chose.
        seed: of every draw.
    """
    cells = []
    for defense, goal, (steps, samples), step_size in product(
        study.defenses, study.goals, study.strengths, study.step_sizes
    ):
        choices = (
            ("defense", defense), ("goal", goal), ("steps", str(steps)), ("samples", str(samples)), ("step_size", step_size),
        )  # fmt: skip
        attack = f"pgd(eps={study.eps}, steps={steps}, step_size={step_size})"
        cells.append(
            Cell(
                choices,
                Settings(
                    defense=defense, attack=attack, eot=samples, votes=study.votes, seed=seed,
                    target=target if goal == TARGETED else None,
                ),
            )
        )  # fmt: skip
    return cells
