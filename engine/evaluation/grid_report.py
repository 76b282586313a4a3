"""The report of a grid: a table of its cells, success over steps and draws as in the paper's Figures 1 and 2, and a CSV."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cannonade.evaluation.caveats import caveats, caveats_between
from cannonade.evaluation.charts import Point, success_over_strength
from cannonade.evaluation.grid import Cell
from cannonade.evaluation.methods import without_argument
from cannonade.evaluation.page import figure_png, figure_uri, render
from cannonade.evaluation.report import FILTERS
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = (
    "images", "attacked", "undefended_accuracy", "benign_accuracy", "invariance", "success_rate", "null_success_rate",
    "gradients", "gradients_per_image", "votes_used", "forwards", "seconds", "seed", "votes", "config_hash",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes:
        cell: the cell.
        summary, configuration: of its run.
        rest: its settings without steps and draws a step, in words: cells that share them are comparable by strength.
        steps, samples: k and m; None for attacks without one of them.
    """

    cell: Cell
    summary: dict[str, Any]
    configuration: dict[str, Any]
    rest: tuple[str, ...]
    steps: int | None
    samples: int | None

    @property
    def strength(self) -> int | None:
        """k·m, the gradients of an attack (paper, section 3)."""
        return None if self.steps is None or self.samples is None else self.steps * self.samples


@dataclass(frozen=True)
class Panel:
    """Cells that differ in steps k and draws m alone, as the template shows them.

    Attributes:
        title: what tells the panel from the others.
        steps, samples: the values of k and of m that occur, ascending.
        cells: by (k, m).
        figure: success against strength.
    """

    title: str
    steps: list[int]
    samples: list[int]
    cells: dict[tuple[int, int], Result]
    figure: "Figure"

    @property
    def plot(self) -> str:
        """The figure as a data URI."""
        return figure_uri(self.figure)


def write_grid_report(cells: Sequence[Cell], out: Path) -> Path:
    """Write `report.html`, `cells.csv` and `strength-N.png` of a grid whose cells are finished.

    Args:
        cells: of the grid.
        out: its directory, with that of each cell.

    Returns:
        The page.
    """
    results = [_read(cell, out / cell.name) for cell in cells]
    panels = _panels(results)
    runs = [
        (result.cell.text, result.configuration, RunDirectory(out / result.cell.name).read_images())
        for result in results
    ]
    page = render(
        "grid_report.html.jinja",
        FILTERS,
        axes=[axis for axis, _ in cells[0].choices],
        results=results,
        panels=panels,
        caveats=[
            (result.cell.text, text) for result in results for text in caveats(result.summary, result.configuration)
        ],
        between=caveats_between(runs),
    )
    directory = RunDirectory(out)
    with directory.turn():
        directory.write_text("cells.csv", _table(results))
        for number, panel in enumerate(panels, 1):
            replace_file(out / f"strength-{number}.png", figure_png(panel.figure))
        directory.write_text("report.html", page)
    return out / "report.html"


def _read(cell: Cell, path: Path) -> Result:
    directory = RunDirectory(path)
    configuration = directory.read_json("run.json")["configuration"]
    calls = configuration["calls"]
    attack, steps = without_argument(calls["attack"], "steps")
    gradient, samples = without_argument(calls["gradient"], "samples")
    others = (f"{key}={configuration[key]}" for key in ("target", "votes", "seed"))
    return Result(
        cell,
        directory.read_json("summary.json"),
        configuration,
        (calls["defense"], attack, gradient, *others),
        steps,
        samples,
    )


def _panels(results: Sequence[Result]) -> list[Panel]:
    """One for all cells that differ in k and m alone, where there are several that attacked anything."""
    groups: dict[tuple[str, ...], dict[tuple[int, int], Result]] = {}
    for result in results:
        attacked = result.summary["success_rate"] is not None
        if attacked and result.steps is not None and result.samples is not None:
            groups.setdefault(result.rest, {})[result.steps, result.samples] = result
    varying = [len(set(words)) > 1 for words in zip(*groups, strict=True)]
    panels = []
    for rest, cells in groups.items():
        if len(cells) > 1:
            steps, samples = (sorted(set(values)) for values in zip(*cells, strict=True))
            title = ", ".join(words for words, varies in zip(rest, varying, strict=True) if varies) or rest[0]
            panels.append(Panel(title, steps, samples, cells, _plot(cells, samples)))
    return panels


def _plot(cells: Mapping[tuple[int, int], Result], samples: Sequence[int]) -> "Figure":
    lines: dict[int, list[Point]] = {}
    for m in samples:
        points = [(k * m, result.summary) for (k, own), result in cells.items() if own == m]
        lines[m] = sorted(
            (strength, summary["success_rate"], *summary["success_rate_ci95"]) for strength, summary in points
        )
    return success_over_strength(lines)


def _table(results: Sequence[Result]) -> str:
    """The cells as CSV, an interval as two columns."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"cell": result.cell.name, **dict(result.cell.choices)}
        for metric in _METRICS:
            row[metric] = result.summary[metric]
            if (interval := f"{metric}_ci95") in result.summary:
                row[f"{metric}_low"], row[f"{metric}_high"] = result.summary[interval] or (None, None)
        rows.append(row | {"steps": result.steps, "samples": result.samples, "strength": result.strength})
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
