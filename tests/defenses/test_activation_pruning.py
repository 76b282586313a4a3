"""Stochastic activation pruning against plain loops, and against its law."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses.activation_pruning import ActivationPruning
from cannonade.draws import Draws, Phase

QUERIES = 4000
SIZES = np.array([0.0, 0.1, 0.2, 0.4, 0.4, 0.8, 1.6, 0.0, 3.2, 0.05, 1.0, 2.0])
SHARES = SIZES / SIZES.sum()


def pruned_by_loops(activations, words):
    """The factor of every activation, in Python's floats: sorted points by partial sums, each looked up by walking."""
    steps = [-math.log((word + 0.5) * 2.0**-32) for word in words]
    total, place, reached = sum(activations), 0, activations[0]
    if total == 0:
        return [0.0] * len(activations)
    chosen, partial, whole = set(), 0.0, sum(steps)
    for step in steps[:-1]:
        partial += step
        while reached <= partial / whole * total:
            place += 1
            reached += activations[place]
        chosen.add(place)
    r = len(steps) - 1
    return [1 / (1 - (1 - value / total) ** r) if j in chosen else 0.0 for j, value in enumerate(activations)]


def draws(count, **changes):
    settings = {"seed": 7, "phase": Phase.ATTACK, "images": torch.arange(count), "queries": torch.arange(count) + 3}
    return Draws(**(settings | changes))


def factors(samples, **changes):
    """[4000, 12], what each query made of the activations SIZES, divided by them."""
    own = draws(QUERIES, images=torch.zeros(QUERIES, dtype=torch.int64), queries=torch.arange(QUERIES), **changes)
    values = torch.from_numpy(SIZES).expand(QUERIES, -1)
    return ActivationPruning(samples=samples)._factors(values, own.part(0).site(0)).numpy()


@pytest.mark.parametrize("samples", [0.1, 1.0, 2.0])
def test_values_and_gradient_of_a_network_against_loops(samples):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    defended = DefendedClassifier(Classifier(net, input_size=(8, 8)).double(), ActivationPruning(samples=samples))
    net, own = defended.classifier.network.module, draws(3)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf, plain = images.clone().requires_grad_(), images.clone().requires_grad_()
    values = plain
    for site, conv in enumerate((net[0], net[2])):
        values = conv(values).clamp(min=0)
        count = values[0].numel()
        words = own.part(0).site(site).words(max(1, round(samples * count)) + 1).tolist()
        scale = [pruned_by_loops(row, chosen) for row, chosen in zip(values.flatten(1).tolist(), words, strict=True)]
        values = values * torch.tensor(scale, dtype=torch.float64).view(values.shape)
    expected = net[5](values.flatten(1))
    logits = defended.logits(leaf, own)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    logits[:, 0].sum().backward()
    expected[:, 0].sum().backward()
    assert plain.grad.any()
    torch.testing.assert_close(leaf.grad, plain.grad, rtol=1e-9, atol=1e-12)


def test_a_layer_without_activity_stays_so():
    leaf = torch.zeros(2, 12, dtype=torch.float64, requires_grad=True)
    pruned = ActivationPruning().activate(leaf, nn.ReLU(), draws(2).part(0).site(0))
    pruned.sum().backward()
    assert not pruned.any()
    assert not leaf.grad.any()


@pytest.mark.parametrize("r", [1, 2, 5, 12])
def test_kept_with_the_stated_probability(r):
    """Alone, two-sided, and in pairs, which tells sampling with replacement from independent coins. Each of 66 + 12 comparisons
    fails by chance, at another seed, with probability 1e-5: the test with .001."""
    kept = factors(r / 12) > 0
    alone = 1 - (1 - SHARES) ** r
    for j in range(12):
        assert binomial(kept[:, j].sum(), alone[j]) > 1e-5
    for j in range(12):
        for k in range(j):
            both = alone[j] + alone[k] - (1 - (1 - SHARES[j] - SHARES[k]) ** r)
            assert binomial((kept[:, j] & kept[:, k]).sum(), max(both, 0)) > 1e-5
    if r == 1:
        assert (kept.sum(1) == 1).all()


def binomial(hits, probability):
    """Two-sided p-value; a probability of 0 is 0 but for rounding."""
    return stats.binomtest(int(hits), QUERIES, 0.0 if probability < 1e-12 else probability).pvalue


def test_the_law_tells_independent_coins_apart():
    """The same marginals, drawn independently, fail the test of pairs."""
    alone = 1 - (1 - SHARES) ** 2
    coins = np.random.default_rng(0).random((QUERIES, 12)) < alone
    j, k = 8, 11
    both = alone[j] + alone[k] - (1 - (1 - SHARES[j] - SHARES[k]) ** 2)
    assert binomial((coins[:, j] & coins[:, k]).sum(), both) < 1e-5


@pytest.mark.parametrize("r", [3, 12])
def test_mean_is_that_without_pruning(r):
    """Within 4.5 standard errors; by chance, at another seed, an activation is outside with probability 7e-6."""
    found = factors(r / 12, seed=11)[:, SIZES > 0]
    alone = (1 - (1 - SHARES) ** r)[SIZES > 0]
    error = np.sqrt((1 / alone - 1) / QUERIES)
    assert (np.abs(found.mean(0) - 1) <= 4.5 * error + 1e-12).all()


def test_a_layer_of_zeros_and_one_of_a_single_activation():
    stream = draws(2).site(0)
    values = torch.zeros(2, 6)
    values[1, 4] = 0.3
    found = ActivationPruning()._factors(values, stream)
    assert torch.equal(found, torch.tensor([[0.0] * 6, [0, 0, 0, 0, 1.0, 0]]))


def test_queries_images_and_phases_draw_differently():
    base = factors(0.5)
    assert (factors(0.5) == base).all()
    assert (factors(0.5, seed=8) != base).any()
    assert (factors(0.5, phase=Phase.FINAL_VOTE) != base).any()
    assert len(np.unique(base > 0, axis=0)) > 20
