"""The engine's own PGD, defense and vote meet the closed forms of the paper's section 5."""

import pytest

from cannonade.experiments.theory import defended_independent, defended_shared, simulate, undefended

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
