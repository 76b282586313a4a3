"""Advice: the grid, successive halving, and agreement of gradients against its closed form."""

from math import inf

import pytest
import torch
from torch import nn

from cannonade.attacks.goals import Untargeted
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.experiments.advise import Agreement, agreement, allocations, confirm, pilot
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing


class Linear(nn.Module):
    """A linear classifier of two classes."""

    def __init__(self):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(192, generator=torch.Generator().manual_seed(2)))

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ self.direction
        return torch.stack((-score, score), dim=1)


class Quadratic(nn.Module):
    """Logits ± |x − ½|²/2·s: under noise, the gradient of the difference of logits is s·(x − ½ + noise)."""

    def forward(self, images):
        half = (images - 0.5).square().sum((1, 2, 3)) / 2
        return torch.stack((-half, half), dim=1)


def subject(module, defense):
    defended = DefendedClassifier(Classifier(module, input_size=(8, 8)), defense, seed=1)
    images = 0.4 + 0.2 * torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return defended, images, torch.arange(16)


def test_grid_spends_the_budget():
    grid = allocations(60, 0.1, (1, 3, 7, 60, 200), (0.25, 0.5), ("loss", "logits"))
    assert all(each.steps * each.samples == 60 for each in grid)
    assert {each.samples for each in grid} == {1, 3, 60}
    assert [each.average for each in grid if each.samples == 1] == ["loss", "loss"]
    assert len(grid) == 2 + 4 + 4
    attack = grid[-1].attack(PGD(eps=0.1, norm="l2"))
    assert (attack.steps, attack.gradient.samples, attack.step_size, attack.norm) == (1, 60, 0.05, "l2")
    with pytest.raises(InputError, match="must divide the budget 60"):
        allocations(60, 0.1, (7, 11), (0.25,), ("loss",))


def test_pilot_halves_and_finds_the_step_size_that_works():
    """Of three step sizes, one cannot leave the spot. Candidates: 12 on 4 images, 6 on 8, 3 on 16."""
    defended, images, ids = subject(Linear(), Smoothing(sigma=0.3))
    goal = Untargeted(defended.classifier(images).argmax(1))
    base = PGD(eps=0.05)
    grid = allocations(12, base.eps, (1, 3), (1e-4, 0.1, 0.3), ("loss", "logits", "probs"))
    turns = []
    trials = pilot(defended, images, goal, base, grid, ids=ids, votes=21, progress=turns.append)
    assert len(trials) == len(grid) == 12
    assert sorted((trial.rounds, len(trial.reached)) for trial in trials) == [(1, 4)] * 6 + [(2, 8)] * 3 + [(3, 16)] * 3
    assert len(turns) == 12 + 6 + 3
    assert trials[0].allocation.step_size > 0.001
    assert all(trial.allocation.step_size > 0.001 for trial in trials[:3])
    assert all(abs(lead) <= 1 for trial in trials for lead in trial.leads)
    won = confirm(defended, images, goal, base, trials[0].allocation, ids=ids, votes=51)
    stuck = next(trial for trial in trials if trial.allocation.step_size < 1e-4)
    lost = confirm(defended, images, goal, base, stuck.allocation, ids=ids, votes=51)
    assert won.double().mean() > lost.double().mean()


def test_agreement_is_perfect_without_randomness():
    defended, images, ids = subject(Linear(), Identity())
    goal = Untargeted(defended(images).argmax(1))
    found = agreement(defended, images, goal, PGD(), ids=ids, draws=4)
    assert found.signs == pytest.approx(1)
    assert found.tau == pytest.approx(0, abs=1e-9)
    assert found.cosine(1) == pytest.approx(1)


def test_agreement_against_its_closed_form():
    """g = c·(x − ½ + σz): τ = dσ²/|x − ½|², and two signs agree with probability Φ² + (1 − Φ)² at (x − ½)/σ."""
    sigma = 0.1
    defended, images, ids = subject(Quadratic(), Smoothing(sigma=sigma))
    goal = Untargeted(torch.zeros(16, dtype=torch.int64))
    found = agreement(defended, images, goal, PGD(loss="margin"), ids=ids, draws=64)
    offsets = (images - 0.5).flatten(1).double()
    chance = torch.special.ndtr(offsets / sigma)
    assert found.signs == pytest.approx(float((chance**2 + (1 - chance) ** 2).mean(1).median()), abs=0.01)
    tau = 192 * sigma**2 / offsets.square().sum(1)
    assert found.tau == pytest.approx(float(tau.median()), rel=0.05)
    assert found.cosine(4) == pytest.approx(float((1 + tau.median() / 4) ** -0.5), rel=0.03)
    assert Agreement(0.5, inf).cosine(10) == 0


def test_refusals():
    defended, images, ids = subject(Linear(), Identity())
    goal = Untargeted(torch.zeros(16, dtype=torch.int64))
    with pytest.raises(InputError, match="draws must be at least 2 to be compared, got 1"):
        agreement(defended, images, goal, PGD(), ids=ids, draws=1)
    with pytest.raises(InputError, match="a pilot needs images and candidates, got 16 and 0"):
        pilot(defended, images, goal, PGD(), [], ids=ids)
