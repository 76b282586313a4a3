"""The engine's own PGD, defense and vote meet the closed forms of the paper's section 5."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from typer.testing import CliRunner

from cannonade.cli import app
from cannonade.errors import InputError
from cannonade.experiments import theory_report
from cannonade.experiments.theory import (
    defended_independent,
    defended_shared,
    invariance,
    least_sigma,
    simulate,
    simulate_invariance,
    undefended,
)

SIGMAS, EPSILONS = (0.25, 0.5, 1.0, 2.0), (0.05, 0.1, 0.3)
POINTS = 100_000


def assert_agrees(result, expected):
    """Within 3 standard errors; each of the comparisons below fails by chance with probability .0027 at another seed."""
    assert abs(result.value - expected) <= 3 * result.standard_error, (result.value, expected, result.standard_error)


@pytest.mark.parametrize("eps", EPSILONS)
def test_equation_4(eps):
    assert_agrees(simulate(k=0, eps=eps, sigma=None, points=POINTS, seed=4), undefended(eps))


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_equations_5_and_6(k, sigma, eps):
    result = simulate(k=k, eps=eps, sigma=sigma, shared_draws=True, points=POINTS, seed=5)
    assert_agrees(result, defended_shared(eps, sigma, k))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_independent_draws(sigma, eps):
    assert_agrees(simulate(k=1, eps=eps, sigma=sigma, points=POINTS, seed=6), defended_independent(eps, sigma, k=1))


@pytest.mark.parametrize("n", [1, 2, 5, 20, 101])
def test_equation_8_is_the_limit(n):
    eps, sigma = 0.3, 1.0
    result = simulate(k=1, eps=eps, sigma=sigma, n=n, points=POINTS // 5, seed=8)
    assert_agrees(result, defended_independent(eps, sigma, k=1, n=n))


def test_votes_converge_to_equation_8():
    eps, sigma = 0.3, 1.0
    gaps = [abs(defended_independent(eps, sigma, k=1, n=n) - undefended(eps)) for n in (1, 5, 25, 125, 625)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3


def test_the_checks_have_power():
    """A defense without its shift, or an attack of the wrong size, is not within 3 standard errors."""
    result = simulate(k=0, eps=0.3, sigma=2.0, shared_draws=True, points=POINTS, seed=5)
    for wrong in (defended_shared(0.3, 2.0, 1), defended_shared(0.32, 2.0, 0), defended_independent(0.3, 2.0, k=0)):
        assert abs(result.value - wrong) > 3 * result.standard_error


def test_values_of_the_text():
    """At ε = .1, σ = .5 the order (5) > (6) > (4) does not hold."""
    values = defended_shared(0.1, 0.5, 0), defended_shared(0.1, 0.5, 1), undefended(0.1)
    assert [round(value, 5) for value in values] == [0.97031, 0.96947, 0.96980]


def test_invariance_has_the_known_values():
    assert [round(invariance(1.0, k), 5) for k in (0, 0.5, 1)] == [0.75, 0.79913, 0.81773]


@pytest.mark.parametrize("sigma", [0.05, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("k", [0, 0.3, 1, 1.5])
def test_invariance_against_an_integral_over_x(sigma, k):
    """Pr[x + θ > k] is Φ((x + 1 − k)/σ): both answers are the same on either side of x = 0."""
    total = 0.0
    for y in (-1, 1):
        for side in (1, -1):

            def same(x, y=y, side=side):
                return norm.pdf(x - y) * norm.cdf(side * (x + 1 - k) / sigma)

            bend = [k - 1] if side * (k - 1) > 0 else None
            total += quad(same, min(0, 12 * side), max(0, 12 * side), epsabs=1e-12, limit=400, points=bend)[0]
    assert abs(invariance(sigma, k) - total / 2) < 1e-9


@pytest.mark.parametrize("k", [0, 0.5, 1])
@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_invariance_by_the_engine(k, sigma):
    assert_agrees(simulate_invariance(k=k, sigma=sigma, points=POINTS, seed=9), invariance(sigma, k))


def test_the_order_changes_at_most_once():
    """It fails for small σ at small eps, holds from least_sigma on, and holds everywhere at large eps."""

    def holds(eps, sigma):
        return defended_shared(eps, sigma, 0) > defended_shared(eps, sigma, 1) > undefended(eps)

    for eps in np.linspace(0.02, 2, 12):
        sigmas = np.linspace(0.05, 10, 120)
        least = least_sigma(eps)
        assert [holds(eps, sigma) for sigma in sigmas] == [sigma > least for sigma in sigmas]
    assert round(least_sigma(0.1), 3) == 0.814
    assert least_sigma(1.0) < 1e-3


def test_the_command(tmp_path):
    ran = CliRunner().invoke(app, ["reproduce", "theory", "--out", str(tmp_path / "new"), "--points", "4000"])
    assert ran.exit_code == 0, ran.output
    assert "holds from σ = 0.814 on at ε = 0.1" in ran.output
    content = json.loads((tmp_path / "new" / "theory.json").read_text())
    assert len(content["rows"]) == 1 + 4 * 3 * 2 + 3
    assert (tmp_path / "new" / "theory.svg").read_bytes().count(b"<path") > 100


def test_a_simulation_that_disagrees_ends_with_status_1(tmp_path, monkeypatch):
    compare = theory_report.compare

    def shifted(*settings):
        for row in compare(*settings):
            yield replace(row, simulated=row.simulated - 5 * row.standard_error) if row.name == "R" else row

    monkeypatch.setattr(theory_report, "compare", shifted)
    ran = CliRunner().invoke(app, ["reproduce", "theory", "--out", str(tmp_path), "--points", "4000"])
    assert ran.exit_code == 1
    assert ran.output.count("DISAGREES") >= 6
    for settings, words in ((["--eps", "0"], "eps"), (["--points", "10"], "points")):
        ran = CliRunner().invoke(app, ["reproduce", "theory", "--out", str(tmp_path), *settings])
        assert isinstance(ran.exception, InputError)
        assert words in str(ran.exception)
    with pytest.raises(InputError, match="sigma must be at least"):
        invariance(0.01, 0)
