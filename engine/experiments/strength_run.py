"""Read the runs of Table 1 and Figures 1 and 2: the best step size of each cell, and EOT against none at equal strength.

The paper reports the best over step sizes (its appendix E.1). Picking the best by the votes that are then reported would praise
luck, so a vote of the selection phase picks here, and the final vote of the run is reported.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cannonade.attacks.goals import goal_for
from cannonade.draws import Phase
from cannonade.evaluation.grid import Cell
from cannonade.evaluation.paired import Paired
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.experiments.strength import Study, changes_of
from cannonade.voting import majority_vote

MARGIN = 5.0  # percentage points within which two attacks count as equally strong
_BATCH = 100  # adversarial images that the selection vote reads at once


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
    """What m draws a step change at equal strength, image by image.

    Attributes:
        defense, goal, strength: of both.
        with_eot, without_eot: (k, m) of each.
        counts: the images that each broke, that with EOT first.
    """

    defense: str
    goal: str
    strength: int
    with_eot: tuple[int, int]
    without_eot: tuple[int, int]
    counts: Paired

    def as_json(self) -> dict[str, Any]:
        """Its counts, and what they say."""
        own = {name: value for name, value in vars(self).items() if name != "counts"}
        counts = self.counts
        return own | {
            "only_with": counts.only_first, "only_without": counts.only_second, "pairs": counts.pairs,
            "points": counts.points, "points_ci95": counts.interval(0.95), "points_ci90": counts.interval(0.9),
            "p": counts.p, "p_eot_stronger": counts.p_first_stronger,
            f"equivalent_within_{MARGIN:g}_points": counts.equivalent(MARGIN),
        }  # fmt: skip


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
                with_eot, without_eot = (one.steps, one.samples), (other.steps, 1)
                counts = Paired.of_records(one.records, other.records)
                found.append(Gain(one.defense, one.goal, one.strength, with_eot, without_eot, counts))
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
        "title": study.title, "changes": changes_of(name, study), "points": rows,
        "gains": [gain.as_json() for gain in gains(points)],
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
