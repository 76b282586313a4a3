"""Table 1 and Figures 1 and 2: does averaging over draws help at equal strength k·m? As grids, the best step size of each cell.

The paper reports the best over step sizes (its appendix E.1). Picking the best by the votes that are then reported would praise
luck, so a vote of the selection phase picks here, and the final vote of the run is reported.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from cannonade.attacks.goals import goal_for
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.evaluation.caveats import paired
from cannonade.evaluation.grid import Cell, Settings
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.evaluation.statistics import mcnemar
from cannonade.voting import majority_vote

Scale = Literal["full", "small"]
_BATCH = 100  # adversarial images that the selection vote reads at once
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
        limit: images that are evaluated.
        votes: n.
        published: success rates of the paper, by (defense, goal, k, m).
        changes: what a smaller study leaves out.
    """

    title: str
    defenses: tuple[str, ...]
    goals: tuple[str, ...]
    strengths: tuple[tuple[int, int], ...]
    step_sizes: tuple[str, ...]
    limit: int = 1000
    votes: int = 500
    published: Mapping[tuple[str, str, int, int], float]
    changes: tuple[str, ...] = ()


_FULL = tuple(product((10, 20, 50, 100, 200, 500, 1000), (1, 5, 10, 20)))
_SMALL = tuple(product((10, 20, 50, 100), (1, 5)))
_LESS = (
    "k in 10 … 100 and m in 1, 5, not k in 10 … 1000 and m in 1 … 20",
    "step sizes 1/255 and 2/255, not 0.5/255 … 4/255",
    "120 images and 100 votes, not 1,000 images and 500 votes",
)
_STEP_SIZES = ("0.5/255", "1/255", "2/255", "4/255")
_ROTATION, _NOISE = "rotation(degrees=90)", "noise_injection"
_SIGMAS = ("smoothing(sigma=0.25)", "smoothing(sigma=0.5)")
_TABLE_1 = {
    (_ROTATION, UNTARGETED, 10, 5): 1.0, (_ROTATION, UNTARGETED, 50, 1): 1.0,
    (_ROTATION, TARGETED, 10, 5): 0.99, (_ROTATION, TARGETED, 50, 1): 0.99,
}  # fmt: skip
_FIGURE_2 = {(_SIGMAS[1], TARGETED, 100, 10): 0.403, (_SIGMAS[1], TARGETED, 1000, 1): 0.348}
_BOTH = (UNTARGETED, TARGETED)

STUDIES: dict[str, dict[Scale, Study]] = {
    "table1": {
        "full": Study(
            title="Table 1, random rotation", defenses=(_ROTATION,), goals=_BOTH, strengths=((10, 5), (50, 1)),
            step_sizes=("1/255", "2/255"), published=_TABLE_1,
        ),
        "small": Study(
            title="Table 1, random rotation", defenses=(_ROTATION,), goals=_BOTH, strengths=((10, 5), (50, 1)),
            step_sizes=("1/255", "2/255"), limit=120, votes=100, published=_TABLE_1,
            changes=("120 images and 100 votes, not 1,000 images and 500 votes",),
        ),
    },
    "figure1": {
        "full": Study(
            title="Figure 1, BaRT's noise injection", defenses=(_NOISE,), goals=_BOTH, strengths=_FULL,
            step_sizes=_STEP_SIZES, published={},
        ),
        "small": Study(
            title="Figure 1, BaRT's noise injection", defenses=(_NOISE,), goals=_BOTH, strengths=_SMALL,
            step_sizes=("1/255", "2/255"), limit=120, votes=100, published={}, changes=_LESS,
        ),
    },
    "figure2": {
        "full": Study(
            title="Figure 2, randomised smoothing", defenses=_SIGMAS, goals=(TARGETED,), strengths=_FULL,
            step_sizes=_STEP_SIZES, published=_FIGURE_2,
        ),
        "small": Study(
            title="Figure 2, randomised smoothing", defenses=_SIGMAS, goals=(TARGETED,), strengths=_SMALL,
            step_sizes=("1/255", "2/255"), limit=120, votes=100, published=_FIGURE_2, changes=_LESS,
        ),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One combination of defense, goal, k and m, at the step size that did best.

    Attributes:
        defense, goal, steps, samples: which.
        step_size: of the best cell, as text.
        summary: of its run.
        records: of its images.
        published: the paper's success rate, where it says one.
    """

    defense: str
    goal: str
    steps: int
    samples: int
    step_size: str
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    published: float | None

    @property
    def strength(self) -> int:
        """k·m."""
        return self.steps * self.samples


@dataclass(frozen=True)
class Gain:
    """What m draws a step change at equal strength, image by image (McNemar, two-sided).

    Attributes:
        defense, goal, strength: of both.
        with_eot, without_eot: (k, m) of each.
        only_with, only_without: images that one alone broke, of the `pairs` that both attacked.
        p: that chance alone explains it.
    """

    defense: str
    goal: str
    strength: int
    with_eot: tuple[int, int]
    without_eot: tuple[int, int]
    only_with: int
    only_without: int
    pairs: int
    p: float

    @property
    def points(self) -> float:
        """Difference of the success rates, in percentage points, with EOT minus without."""
        return 100 * (self.only_with - self.only_without) / max(1, self.pairs)


def find_study(name: str, scale: str, defense: str | None = None) -> Study:
    """A study of the paper.

    Args:
        name: "table1", "figure1" or "figure2".
        scale: "full", the paper's settings; "small", for two cores.
        defense: in place of the study's own.

    Raises:
        InputError: there is no such study or scale.
    """
    if name not in STUDIES:
        raise InputError(f"a study must be one of {', '.join(STUDIES)}, got {name!r}")
    if scale not in ("full", "small"):
        raise InputError(f"scale must be full or small, got {scale!r}")
    study = STUDIES[name]["full" if scale == "full" else "small"]
    if defense is None:
        return study
    changes = (*study.changes, f"{defense} in place of {', '.join(study.defenses)}")
    return replace(study, defenses=(defense,), published={}, changes=changes)


def cells_of(study: Study, *, eps: str = "8/255", target: str = "random", seed: int = 0) -> list[Cell]:
    """The evaluations of a study, which `assemble` and `run_grid` take.

    Args:
        study: which.
        eps: radius of the attacks in L∞, as text.
        target: of the targeted ones; the paper does not say how it chose.
        seed: of every draw.
    """
    cells = []
    for defense, goal, (steps, samples), step_size in product(
        study.defenses, study.goals, study.strengths, study.step_sizes
    ):
        choices = (
            ("defense", defense), ("goal", goal), ("steps", str(steps)), ("samples", str(samples)), ("step_size", step_size),
        )  # fmt: skip
        attack = f"pgd(eps={eps}, steps={steps}, step_size={step_size})"
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


def selection_rate(plan: Plan, path: Path) -> float:
    """Success of a finished run's adversarial images by a vote of the selection phase; kept in its `selection.json`.

    Args:
        plan: of the run.
        path: its directory.
    """
    directory = RunDirectory(path)
    summary = directory.read_json("summary.json")
    if (path / "selection.json").is_file():
        kept = directory.read_json("selection.json")
        if kept["config_hash"] == summary["config_hash"]:
            return float(kept["success_rate"])
    records = {record["id"]: record for record in directory.read_images() if record["attacked"]}
    chunk = int(directory.read_json("run.json")["resolved_chunk"])
    ids, hits = list(records), 0
    for start in range(0, len(ids), _BATCH):
        own = ids[start : start + _BATCH]
        found = directory.read_adversarial(own)
        images = torch.stack([found[image] for image in own]).to(plan.device)
        labels, targets = (
            torch.tensor(
                [-1 if records[image][key] is None else records[image][key] for image in own], device=plan.device
            )
            for key in ("label", "target")
        )
        goal = goal_for(labels, None if plan.target is None else targets, plan.defended.num_classes)
        votes = majority_vote(
            plan.defended, images, plan.votes, stop=plan.stop, alpha=plan.alpha, phase=Phase.SELECTION,
            ids=torch.tensor(own, device=plan.device), chunk=chunk,
        )  # fmt: skip
        hits += int(goal.reached(votes.labels).sum())
    rate = hits / max(1, len(ids))
    directory.write_json("selection.json", {"config_hash": summary["config_hash"], "success_rate": rate})
    return rate


def best_points(
    study: Study, plans: Mapping[Cell, Plan], out: Path, progress: Callable[[str], None] = lambda text: None
) -> list[Point]:
    """The best step size of every combination, picked by the selection vote; ties go to the smaller step.

    Args:
        study: which.
        plans: its cells, all finished in `out`.
        out: directory of the grid.
        progress: told of each cell.
    """
    groups: dict[tuple[str, str, int, int], list[tuple[float, Cell]]] = {}
    for cell, plan in plans.items():
        chosen = dict(cell.choices)
        key = chosen["defense"], chosen["goal"], int(chosen["steps"]), int(chosen["samples"])
        rate = selection_rate(plan, out / cell.name)
        progress(f"{cell.text}: {100 * rate:.1f} % by the selection vote")
        groups.setdefault(key, []).append((rate, cell))
    points = []
    for key, candidates in groups.items():
        best = max(candidates, key=lambda candidate: candidate[0])[1]
        directory = RunDirectory(out / best.name)
        points.append(
            Point(
                *key, dict(best.choices)["step_size"], directory.read_json("summary.json"), directory.read_images(),
                study.published.get(key),
            )
        )  # fmt: skip
    return points


def gains(points: Sequence[Point]) -> list[Gain]:
    """EOT against none at equal strength, wherever both are there."""
    found = []
    for one in points:
        for other in points:
            same = (one.defense, one.goal, one.strength) == (other.defense, other.goal, other.strength)
            if same and one.samples > 1 and other.samples == 1:
                only, lost, pairs = paired(one.records, other.records)
                found.append(
                    Gain(
                        one.defense, one.goal, one.strength, (one.steps, one.samples), (other.steps, 1), only, lost, pairs,
                        mcnemar(only, lost),
                    )
                )  # fmt: skip
    return found


def write_study(study: Study, points: Sequence[Point], name: str, out: Path) -> tuple[Path, Path]:
    """Write `NAME.json` and `NAME.svg`, a panel for each defense and goal as the paper has them.

    Returns:
        The two files.
    """
    from matplotlib.figure import Figure

    from cannonade.evaluation.charts import draw_strength

    rows = [
        {
            "defense": point.defense, "goal": point.goal, "steps": point.steps, "samples": point.samples,
            "step_size": point.step_size, "published": point.published, **point.summary,
        }
        for point in points
    ]  # fmt: skip
    directory = RunDirectory(out)
    content = {
        "title": study.title, "changes": study.changes, "points": rows,
        "gains": [vars(gain) | {"points": gain.points} for gain in gains(points)],
    }  # fmt: skip
    panels = list(dict.fromkeys((point.defense, point.goal) for point in points))
    figure = Figure(figsize=(6.4 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (defense, goal) in zip(axes, panels, strict=True):
        lines: dict[int, list[tuple[int, float, float, float]]] = {}
        for point in points:
            if (point.defense, point.goal) == (defense, goal) and point.summary["success_rate"] is not None:
                rate, bounds = point.summary["success_rate"], point.summary["success_rate_ci95"]
                lines.setdefault(point.samples, []).append((point.strength, rate, *bounds))
        draw_strength(axis, {samples: sorted(line) for samples, line in sorted(lines.items())})
        axis.set_title(f"{defense}, {goal}", fontsize=9)
        for point in points:
            if (point.defense, point.goal) == (defense, goal) and point.published is not None:
                axis.plot(point.strength, 100 * point.published, "k*", markersize=9)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    directory.write_text(f"{name}.json", json.dumps(content, indent=2) + "\n")
    return out / f"{name}.json", out / f"{name}.svg"
