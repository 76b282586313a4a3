"""Bounds of a probability: against SciPy, and their coverage at a fixed and at any number of trials."""

import math

import pytest
import torch
from scipy.stats import beta

from cannonade.errors import InputError
from cannonade.proportions import Border, anytime_lower, clopper_pearson_lower, fewest_hits, log_evidence_above

RUNS = 20_000
ALPHA = 0.05


def too_often(errors, alpha=ALPHA):
    """False alarm 1e-4, if the error has probability alpha."""
    return float(errors.double().sum()) > alpha * len(errors) + 3.72 * (len(errors) * alpha * (1 - alpha)) ** 0.5


def bernoulli(p, trials, seed=0):
    """Running hits of many sequences: [RUNS, trials]."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(RUNS, trials, generator=generator) < p).cumsum(1)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3, 1e-9])
@pytest.mark.parametrize(
    ("hits", "trials"),
    [(1, 1), (1, 10), (9, 10), (10, 10), (50, 100), (99000, 100000), (60000, 100000), (100000, 100000), (3, 100000)],
)
def test_clopper_pearson_is_the_beta_quantile(hits, trials, alpha):
    assert clopper_pearson_lower(hits, trials, alpha) == pytest.approx(
        beta.ppf(alpha, hits, trials - hits + 1), rel=1e-9, abs=1e-13
    )


def test_no_hits_prove_nothing():
    assert clopper_pearson_lower(0, 10, 0.1) == 0.0
    assert anytime_lower(torch.tensor([0]), torch.tensor([10]), 0.1).tolist() == [0.5]


@pytest.mark.parametrize(
    ("hits", "trials", "alpha"), [(3, 2, 0.1), (-1, 2, 0.1), (0, 0, 0.1), (1, 2, 0.0), (1, 2, 1.0)]
)
def test_refusals(hits, trials, alpha):
    with pytest.raises(InputError, match="must be in"):
        clopper_pearson_lower(hits, trials, alpha)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.97])
def test_coverage_at_a_fixed_number(p):
    hits = bernoulli(p, 200)[:, -1]
    bounds = torch.tensor([clopper_pearson_lower(count, 200, ALPHA) for count in range(201)])
    assert not too_often(bounds[hits] > p)


@pytest.mark.parametrize("p", [0.55, 0.9])
def test_coverage_at_any_number(p):
    """Of the lower bound at all of 100 numbers of trials at once; Clopper and Pearson's, watched so, fails."""
    trials = torch.arange(1, 101)
    hits = bernoulli(p, 100)
    table = torch.full((101, 101), 0.5, dtype=torch.float64)
    for number in trials.tolist():
        counts = torch.arange(number + 1)
        table[number, : number + 1] = anytime_lower(counts, torch.full_like(counts, number), ALPHA)
    assert not too_often((table[trials, hits] > p).any(1))
    looks = (20, 30, 40, 50, 60, 70, 80, 100)
    watched = torch.zeros(RUNS, dtype=torch.bool)
    for number in looks:
        bounds = torch.tensor([clopper_pearson_lower(count, number, ALPHA) for count in range(number + 1)])
        watched |= bounds[hits[:, number - 1]] > p
    assert too_often(watched)


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_evidence_at_any_number(p):
    """Where p is the truth the border is crossed with probability at most alpha, and not much more rarely."""
    trials = torch.arange(1, 301)
    border = Border(p, ALPHA).at(trials)
    crossed = (bernoulli(p, 300) >= border).any(1)
    assert not too_often(crossed)
    assert crossed.double().mean() > ALPHA / 10
    assert (bernoulli(p + 0.04, 300) >= border).any(1).double().mean() > 2 * ALPHA


@pytest.mark.parametrize("p", [0.02, 0.5, 0.8, 0.999])
def test_border(p):
    trials = torch.arange(400)
    border = Border(p, 1e-3).at(trials)
    assert torch.equal(border, fewest_hits(trials, p, 1e-3))
    evidence = log_evidence_above(border, trials, p)
    assert (evidence[border <= trials] >= math.log(1000)).all()
    assert (log_evidence_above(border - 1, trials, p)[1:] < math.log(1000)).all()
    assert set(border.diff().tolist()) <= {0, 1}


def test_evidence_is_one_on_average():
    """Exactly, by summing over all outcomes of 40 trials, at the border and below it."""
    hits = torch.arange(41)
    evidence = log_evidence_above(hits, torch.full((41,), 40), 0.6).exp()
    for p in (0.6, 0.5, 0.1):
        chance = torch.distributions.Binomial(40, torch.tensor(p, dtype=torch.float64)).log_prob(hits.double()).exp()
        mean = float((chance * evidence).sum())
        assert mean == pytest.approx(1, abs=1e-9) if p == 0.6 else mean < 1


def test_anytime_bound_is_below_the_fixed_one_and_near_it():
    hits = torch.tensor([600, 900, 990, 1000])
    anytime = anytime_lower(hits, torch.full_like(hits, 1000), 1e-3)
    fixed = torch.tensor([clopper_pearson_lower(count, 1000, 1e-3) for count in hits.tolist()], dtype=torch.float64)
    assert (anytime < fixed).all()
    assert (fixed - anytime < 0.03).all()


def test_certainty_cannot_be_shown():
    assert log_evidence_above(torch.tensor([5]), torch.tensor([5]), 1.0).tolist() == [-math.inf]
