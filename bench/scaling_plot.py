"""The figure of `cannonade bench scaling`: time above, memory below, a column for each axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cannonade.bench.scaling import AXES, Line, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 30  # from this ratio of the largest to the smallest on, an axis is logarithmic


def plot(points: Sequence[Point], lines: Sequence[Line]) -> "Figure":
    """Medians with their quartiles and the fitted lines, and peak memory, for each number of threads.

    Args:
        points: of one axis or several.
        lines: theirs.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(3.3 * len(names), 5.6), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        times, memory = panels[:, column]
        for place, line in enumerate(each for each in lines if each.axis == name):
            own = [point for point in points if point.axis == name and point.threads == line.threads]
            _draw_times(times, own, line, f"C{place}")
            _draw_memory(memory, own, f"C{place}")
        times.set(title=name)
        times.legend(frameon=False, fontsize=7)
        memory.set(xlabel=AXES[name].variable, ylim=(0, None))
        for panel in (times, memory):
            panel.grid(alpha=0.25)
    panels[0, 0].set_ylabel("ms")
    panels[1, 0].set_ylabel("peak memory, MiB")
    return figure


def _draw_times(panel: "Axes", points: Sequence[Point], line: Line, colour: str) -> None:
    variable = [AXES[point.axis].natural(point.value) for point in points]
    medians = [point.milliseconds for point in points]
    spread = [
        [point.milliseconds - point.quartiles[0] for point in points],
        [point.quartiles[1] - point.milliseconds for point in points],
    ]
    label = f"{line.threads} thread{'s' if line.threads > 1 else ''}, R² = {line.r_squared:.4f}"
    panel.errorbar(variable, medians, spread, fmt="o", color=colour, markersize=4, capsize=2, label=label)
    along = np.geomspace(min(variable), max(variable), 200)
    panel.plot(along, line.intercept + line.slope * along, color=colour, linewidth=1)
    if max(variable) >= _WIDE * min(variable):
        panel.set(xscale="log", yscale="log")


def _draw_memory(panel: "Axes", points: Sequence[Point], colour: str) -> None:
    known = [(AXES[point.axis].natural(point.value), point.memory) for point in points if point.memory is not None]
    panel.plot([x for x, _ in known], [memory for _, memory in known], "s-", color=colour, markersize=3, linewidth=1)
