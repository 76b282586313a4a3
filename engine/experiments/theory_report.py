"""Section 5 of the paper as a table and a plot: closed forms beside Monte Carlo, and robustness against invariance."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cannonade.errors import InputError
from cannonade.experiments.theory import (
    Share,
    defended_independent,
    defended_shared,
    invariance,
    least_sigma,
    simulate,
    simulate_invariance,
    undefended,
)
from cannonade.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGMAS = (0.25, 0.5, 1.0, 2.0)
SHIFTS = (0.0, 0.5, 1.0)
VOTES = (1, 5, 25)
_FAR = 4.0  # standard errors between a closed form and Monte Carlo


@dataclass(frozen=True)
class Comparison:
    """A closed form and its Monte Carlo.

    Attributes:
        name: which equation.
        sigma: of the defense; None for the undefended classifier.
        k: shift.
        closed: the closed form.
        simulated: by the engine's own parts.
        standard_error: of the latter, that of a binomial share of the closed form's size.
    """

    name: str
    sigma: float | None
    k: float
    closed: float
    simulated: float
    standard_error: float

    @property
    def deviation(self) -> float:
        """Of the simulation from the closed form, in standard errors."""
        return (self.simulated - self.closed) / self.standard_error

    @property
    def agrees(self) -> bool:
        """Whether they are within 4 standard errors, which fails by chance with probability 6e-5."""
        return abs(self.deviation) <= _FAR


def compare(eps: float, points: int, seed: int) -> Iterator[Comparison]:
    """Every equation, closed and simulated.

    Args:
        eps: radius of the attack, in units of x.
        points: of each simulation but those of many votes, which take points / n.
        seed: of the draws.
    """
    yield _row(
        "(4) A, undefended", None, 0, undefended(eps), simulate(k=0, eps=eps, sigma=None, points=points, seed=seed)
    )
    for sigma in SIGMAS:
        for k in SHIFTS:
            name = {0.0: "(5) A", 1.0: "(6) A"}.get(k, "A")
            found = simulate(k=k, eps=eps, sigma=sigma, shared_draws=True, points=points, seed=seed)
            yield _row(name, sigma, k, defended_shared(eps, sigma, k), found)
            yield _row(
                "R", sigma, k, invariance(sigma, k), simulate_invariance(k=k, sigma=sigma, points=points, seed=seed)
            )
    for n in VOTES:
        found = simulate(k=1, eps=eps, sigma=1.0, n=n, points=-(-points // n), seed=seed)
        closed = defended_independent(eps, 1.0, 1, n)
        yield _row(f"(7) A, vote of {n}, → (8)", 1.0, 1, closed, found)


def _row(name: str, sigma: float | None, k: float, closed: float, found: Share) -> Comparison:
    return Comparison(name, sigma, k, closed, found.value, Share(closed, found.points).standard_error)


def reproduce_theory(
    out: Path,
    *,
    eps: float = 0.1,
    points: int = 400_000,
    seed: int = 0,
    progress: Callable[[Comparison], None] = lambda row: None,
) -> tuple[list[Comparison], float]:
    """Write `theory.json` and `theory.svg`.

    Args:
        out: folder, made where it is not there.
        eps: radius of the attack, in units of x.
        points: of each simulation.
        seed: of the draws.
        progress: called after each comparison.

    Returns:
        The comparisons, and the σ from which on the order (5) > (6) > (4) holds at this eps.

    Raises:
        InputError: eps is not in (0, 2], or there are fewer than 1000 points.
    """
    if not 0 < eps <= 2:
        raise InputError(f"eps must be in (0, 2], in units of the task's x, got {eps}")
    if points < 1000:
        raise InputError(f"points must be at least 1000, got {points}")
    rows = []
    for row in compare(eps, points, seed):
        rows.append(row)
        progress(row)
    least = least_sigma(eps)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "eps": eps, "points": points, "seed": seed, "order_holds_from_sigma": least,
        "rows": [asdict(row) | {"agrees": row.agrees} for row in rows],
    }  # fmt: skip
    replace_file(out / "theory.json", json.dumps(content, indent=1).encode())
    replace_file(out / "theory.svg", _plot(rows, eps, least))
    return rows, least


def _plot(rows: list[Comparison], eps: float, least: float) -> bytes:
    """As an SVG: A(k) against R(k), and where in (eps, σ) the paper's order holds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_trade_off(left, rows, eps)
    _draw_order(right, eps, least)
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _draw_trade_off(axis: "Axes", rows: list[Comparison], eps: float) -> None:
    shifts = np.linspace(0, 1, 41).tolist()
    for place, sigma in enumerate(SIGMAS):
        five, six, four = defended_shared(eps, sigma, 0), defended_shared(eps, sigma, 1), undefended(eps)
        verdict = "(5) > (6) > (4)" if five > six > four else f"not in order: {_order(five, six, four)}"
        axis.plot(
            [invariance(sigma, k) for k in shifts], [defended_shared(eps, sigma, k) for k in shifts], color=f"C{place}",
            label=f"σ = {sigma:g}: {verdict}",
        )  # fmt: skip
        found = {(row.name[-1], row.k): row for row in rows if row.sigma == sigma and row.name[-1] in "AR"}
        for k in SHIFTS:
            robust, invariant = found["A", k], found["R", k]
            axis.errorbar(
                invariant.simulated, robust.simulated, 1.96 * robust.standard_error, 1.96 * invariant.standard_error,
                fmt="o" if k in (0, 1) else ".", color=f"C{place}", markersize=4, capsize=2,
                markerfacecolor="white" if k == 0 else f"C{place}",
            )  # fmt: skip
    axis.axhline(undefended(eps), color="black", linewidth=1, linestyle="--", label="(4) = (8): undefended")
    axis.set(
        xlabel="invariance R(k)",
        ylabel="robust accuracy A(k)",
        title=f"k from 0 (hollow, 5) to 1 (full, 6); ε = {eps:g}",
    )
    axis.legend(frameon=False, fontsize=7)
    axis.grid(alpha=0.25)


def _order(five: float, six: float, four: float) -> str:
    named = sorted({"(5)": five, "(6)": six, "(4)": four}.items(), key=lambda entry: -entry[1])
    return " > ".join(name for name, _ in named)


def _draw_order(axis: "Axes", eps: float, least: float) -> None:
    radii = np.linspace(0.01, 1, 34).tolist()
    border = [least_sigma(radius) for radius in radii]
    top = 1.6 * max(border)
    axis.fill_between(radii, border, top, alpha=0.25, color="C2", label="(5) > (6) > (4) holds")
    axis.fill_between(radii, 0, border, alpha=0.25, color="C3", label="it does not")
    axis.plot(radii, border, color="black", linewidth=1)
    axis.plot([eps], [least], "ko", markersize=5)
    axis.annotate(f"ε = {eps:g}: from σ = {least:.3f} on", (eps, least), (8, 8), textcoords="offset points", fontsize=8)
    axis.set(xlabel="ε", ylabel="σ", ylim=(0, top), xlim=(0, 1), title="where the order of the paper holds")
    axis.legend(frameon=False, fontsize=8)
