"""The figures of reports."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cannonade.evaluation.votes_of import right_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20
Point = tuple[int, float, float, float]  # strength k·m, success rate and the bounds of its interval


def vote_shares(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """How many images keep which share of votes for their true label, before and after the attack.

    Args:
        records: of images, at least one.
    """
    figure = _figure(3.0)
    axis = figure.subplots()
    attacked = [record for record in records if record["attacked"]]
    series = {
        "clean": [right_share(record, "benign_counts") for record in records],
        "adversarial": [right_share(record, "adversarial_counts") for record in attacked],
    }
    for (name, shares), colour in zip(series.items(), ("#94a3b8", "#4338ca"), strict=True):
        if shares:
            axis.hist(shares, bins=_BINS, range=(0, 1), label=name, color=colour, alpha=0.75)
    axis.set(xlim=(0, 1), xlabel="share of votes for the true label", ylabel="images")
    axis.legend(frameon=False, fontsize=8)
    return figure


def success_over_strength(lines: Mapping[int, Sequence[Point]]) -> "Figure":
    """Success against strength k·m with 95 % intervals, as in the paper's Figures 1 and 2.

    Args:
        lines: the points of each m, by strength.
    """
    figure = _figure(3.8)
    draw_strength(figure.subplots(), lines)
    return figure


def draw_strength(axis: Any, lines: Mapping[int, Sequence[Point]]) -> None:
    """The same into an axis of matplotlib's."""
    from matplotlib import colormaps

    for place, (samples, points) in enumerate(lines.items()):
        strengths, rates, lows, highs = zip(*points, strict=True)
        spread = [
            [100 * (rate - low) for rate, low in zip(rates, lows, strict=True)],
            [100 * (high - rate) for rate, high in zip(rates, highs, strict=True)],
        ]
        colour = colormaps["viridis"](0.85 * place / max(1, len(lines) - 1))
        axis.errorbar(
            strengths, [100 * rate for rate in rates], spread,
            label=f"EOT-{samples}", color=colour, marker="o", markersize=4, linewidth=1.5, elinewidth=1, capsize=2,
        )  # fmt: skip
    axis.set(xscale="log", ylim=(-3, 103), xlabel="strength k·m, gradients", ylabel="success rate, %")
    axis.grid(alpha=0.25)
    if lines:
        axis.legend(frameon=False, fontsize=8)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, height), layout="constrained")
