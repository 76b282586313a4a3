"""Intervals of paired proportions against published numbers and closed forms, and their exact error probabilities."""

from itertools import product
from math import comb
from statistics import NormalDist

import numpy as np
import pytest

from cannonade.evaluation.statistics import mcnemar, mcnemar_one_sided, paired_interval


def test_mcnemar_one_sided():
    assert mcnemar_one_sided(5, 0) == 1 / 32
    assert mcnemar_one_sided(0, 5) == 1
    assert mcnemar_one_sided(3, 1) == 5 / 16
    assert mcnemar_one_sided(0, 0) == 1
    assert mcnemar(3, 1) == 2 * mcnemar_one_sided(3, 1)


def test_the_published_interval():
    """Airway hyper-responsiveness before and after transplantation (Fagerland et al., Statistics in Medicine 2014)."""
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("pairs", [1, 20, 500])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_closed_forms(pairs, confidence):
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    edge = z2 / (pairs + z2)
    assert paired_interval(0, 0, pairs, confidence) == pytest.approx((-edge, edge))
    everyone = (pairs - z2) / (pairs + z2)
    assert paired_interval(pairs, 0, pairs, confidence) == pytest.approx((everyone, 1))
    assert paired_interval(0, pairs, pairs, confidence) == pytest.approx((-1, -everyone))
    assert paired_interval(0, 0, 0, confidence) is None


def probabilities(pairs, first, second):
    """Of every outcome that is not next to impossible, when one alone passes with the one probability or the other."""
    for one in range(pairs + 1):
        for other in range(pairs + 1 - one):
            ways = comb(pairs, one) * comb(pairs - one, other)
            chance = ways * first**one * second**other * (1 - first - second) ** (pairs - one - other)
            if chance > 1e-12:
                yield one, other, chance


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.3, 0.1), (0.05, 0.02), (0.4, 0.4)])
def test_coverage(first, second):
    """Exact, by adding up the trinomial probabilities of all outcomes: nothing is sampled, so this cannot fail by chance."""
    for confidence in (0.9, 0.95):
        covered = 0.0
        for one, other, chance in probabilities(60, first, second):
            low, high = paired_interval(one, other, 60, confidence)
            covered += chance * (low <= first - second <= high)
        assert covered == pytest.approx(confidence, abs=0.016)


@pytest.mark.parametrize(("pairs", "second"), [(120, 0.01), (300, 0.01), (300, 0.05)])
def test_equivalence_is_claimed_wrongly_in_at_most_one_of_twenty(pairs, second):
    """Exact error of the two one-sided tests where the difference is the margin itself, the worst case; not by sampling."""
    errors = [0.0, 0.0]
    for one, other, chance in probabilities(pairs, second + 0.05, second):
        for place, (low, high) in enumerate(
            (paired_interval(one, other, pairs, 0.9), paired_interval(other, one, pairs, 0.9))
        ):
            errors[place] += chance * (low > -0.05 and high < 0.05)
    assert 0.03 < errors[0] < 0.055
    assert errors[1] == pytest.approx(errors[0], abs=1e-9)  # the sides are alike


def test_it_is_a_score_interval():
    """At its ends the difference lies z standard errors away, those of the likeliest proportions, found here on a grid."""
    z, pairs = NormalDist().inv_cdf(0.975), 40
    for first, second in product((0, 3, 9), (1, 6)):
        ends = paired_interval(first, second, pairs)
        for end, sign in zip(ends, (1, -1), strict=True):
            alone = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]  # of the second
            likelihood = first * np.log(alone + end) + second * np.log(alone)
            likelihood += (pairs - first - second) * np.log(1 - 2 * alone - end)
            variance = 2 * alone[likelihood.argmax()] + end - end**2
            assert ((first - second) / pairs - end) / np.sqrt(variance / pairs) == pytest.approx(sign * z, rel=1e-3)
