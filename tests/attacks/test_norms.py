"""Starts, steps and projections of each norm."""

import pytest
import torch
from scipy import stats

from cannonade.attacks.norms import NORMS
from cannonade.draws import Draws, Phase

SHAPE = torch.Size((200, 3, 5, 7))
IDS = torch.arange(200)
DRAWS = Draws(seed=5, phase=Phase.START, images=IDS, queries=torch.zeros_like(IDS))


@pytest.mark.parametrize("name", NORMS)
def test_start_fills_the_ball(name):
    """Uniform in the ball: u = (distance/eps)^d for L2, each coordinate for Linf; KS at false alarm 1e-4."""
    norm, eps = NORMS[name], 0.5
    start = norm.start(SHAPE, eps, DRAWS)
    assert norm.distance(start).max() <= eps * (1 + 1e-6)
    if name == "l2":
        sample, law = (norm.distance(start) / eps) ** 105, "uniform"
        assert stats.kstest(sample.numpy(), law).pvalue > 1e-4
        direction = start / norm.distance(start).float()[:, None, None, None]
        assert stats.kstest((direction.flatten() * 105**0.5).numpy(), "norm").pvalue > 1e-4
    else:
        assert stats.kstest(((start / eps + 1) / 2).flatten().numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("name", NORMS)
def test_step_has_norm_one_and_ascends(name):
    gradient = DRAWS.site(3).normal(shape=SHAPE[1:])
    step = NORMS[name].step(gradient)
    assert torch.allclose(NORMS[name].distance(step), torch.ones(200, dtype=torch.float64), atol=1e-6)
    assert ((step * gradient).flatten(1).sum(1) > 0).all()
    assert not NORMS[name].step(torch.zeros(2, 3, 4, 4)).any()


@pytest.mark.parametrize("name", NORMS)
def test_projection(name):
    norm, eps = NORMS[name], 0.1
    outside = DRAWS.site(3).normal(shape=SHAPE[1:])
    projected = norm.project(outside, eps)
    assert norm.distance(projected).max() <= eps * (1 + 1e-6)
    inside = projected * 0.5
    assert torch.equal(norm.project(inside, eps), inside)
    assert not norm.project(torch.zeros(1, 3, 4, 4), eps).any()
