"""k-winners-take-all against sorting by hand, and the attack of the literature on it."""

import pytest
import torch

from cannonade.attacks.eot import EOT
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import margin
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses.kwta import KWTA
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity


def winners(values, fraction):
    """By Python's sort."""
    rows = []
    for row in values.flatten(1).tolist():
        least = sorted(row, reverse=True)[max(1, int(fraction * len(row))) - 1]
        rows.append([value >= least for value in row])
    return torch.tensor(rows).view(values.shape)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (3, 11)])
def test_against_sorting(fraction, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(4).round().div(4)  # with ties
    values = values.to(memory_format=torch.channels_last) if len(shape) == 4 else values
    leaf = values.clone().requires_grad_()
    found = KWTA(fraction=fraction).activate(leaf, torch.relu, None)
    won = winners(values, fraction)
    assert torch.equal(found, torch.where(won, values, 0))
    assert fraction < 0.9 or (found < 0).any()
    assert won.flatten(1).sum(1).max() > int(fraction * values[0].numel()) or fraction == 1, (
        "no ties: the test has no power"
    )
    found.sum().backward()
    assert torch.equal(leaf.grad, won.to(leaf.dtype))


class Quadratic(torch.nn.Module):
    """Two logits ±(a·x − c|x|²): the gradient under Gaussian noise is known, and is not that of clipped points."""

    def forward(self, images):
        flat = images.flatten(1)
        score = flat.sum(1, keepdim=True) - 0.3 * flat.square().sum(1, keepdim=True)
        return torch.cat((-score, score), dim=1)


def test_evolution_strategies_estimate_the_smoothed_gradient():
    """Antithetic pairs at σ = 8/255 without clipping, on the margin loss: over 3000 pairs each of 12 coordinates is within 4.5
    standard errors, those measured on a linear function of the same gradient (7e-6 by chance, at another seed)."""
    defended = DefendedClassifier(Classifier(Quadratic(), input_size=(2, 2)), Identity(), seed=1)
    images = torch.linspace(0, 1, 12).view(1, 3, 2, 2)
    streams = Draws(seed=1, phase=Phase.ATTACK, images=torch.zeros(1).long(), queries=torch.zeros(1).long())
    gradient = 2 * (1 - 0.6 * images)  # of margin at label 0: z1 − z0
    error = (gradient.square().sum() + gradient.square()).div(3000).sqrt()

    def found(**settings):
        estimator = FiniteDifferences(pairs=3000, sigma=8 / 255, chunk=6000, **settings)
        return estimator.estimate(defended, images, Untargeted(torch.zeros(1).long()), margin, streams).gradient

    assert ((found(clip=False) - gradient).abs() <= 4.5 * error).all()
    assert ((found() - gradient).abs() > 4.5 * error)[0, 0, 0, 0], "clipped at 0, half of the slope is lost"


def test_the_gradient_is_the_winners():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    defended = DefendedClassifier(Classifier(net, input_size=(2, 2)).double(), KWTA(fraction=0.34))
    images = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    streams = Draws(seed=1, phase=Phase.ATTACK, images=torch.arange(2), queries=torch.arange(2))
    goal = Untargeted(torch.tensor([0, 2]))
    found = EOT().estimate(defended, images, goal, margin, streams).gradient
    step = 1e-6
    for place in range(12):
        moved = torch.zeros(12, dtype=torch.float64)
        moved[place] = step
        above, below = (
            goal.objective(defended.logits(images + sign * moved.view(3, 2, 2), streams), margin) for sign in (1, -1)
        )
        torch.testing.assert_close(found.flatten(1)[:, place], (above - below) / (2 * step), rtol=1e-5, atol=1e-7)


class Minus(torch.nn.Module):
    def forward(self, values):
        return values - 5


@pytest.mark.parametrize("in_place", [True, False])
def test_the_first_activations_can_stay(in_place):
    net = torch.nn.Sequential(torch.nn.ReLU(in_place), Minus(), torch.nn.ReLU(in_place))
    values = torch.tensor([[-3.0, -1.0, 2.0, 4.0]])
    streams = Draws(seed=1, phase=Phase.ATTACK, images=torch.arange(1), queries=torch.arange(1))
    assert KWTA(fraction=0.75).inside(net, values.clone(), streams).tolist() == [[-5, 0, -3, -1]]
    assert KWTA(fraction=0.75, first=1).inside(net, values.clone(), streams).tolist() == [[-5, -5, -3, -1]]
    with pytest.raises(InputError, match="spares all 2 activations of the network"):
        KWTA(first=2).inside(net, values.clone(), streams)
    with pytest.raises(InputError, match="kwta: first must be at least 0, got -1"):
        KWTA(first=-1)
