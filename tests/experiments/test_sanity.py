"""`cannonade sanity`: sound gradients pass, and every planted defect is named."""

import pytest
import torch
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.experiments.sanity import check_sanity
from cannonade.transforms.base import straight_through
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

ATTACK = PGD(eps=8 / 255, steps=10, step_size=2 / 255)


class Linear(nn.Module):
    """Two classes by one smooth direction."""

    def __init__(self):
        super().__init__()
        coarse = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
        self.direction = nn.Parameter(nn.functional.interpolate(coarse, (12, 12)).flatten() / 2)

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ self.direction
        return torch.stack((-score, score), dim=1)


def images(count=24):
    """Close to the decision boundary, so that 8/255 decides."""
    return 0.48 + 0.04 * torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def run(defense, module=None, attack=ATTACK, **settings):
    defended = DefendedClassifier(Classifier(module or Linear(), input_size=(12, 12)), defense, seed=1)
    plain = DefendedClassifier(defended.classifier, Identity())
    labels = plain(images()).argmax(1)
    return check_sanity(defended, images(), labels, attack, votes=25, queries=100, **settings)


def failed(outcome):
    return {check.name for check in outcome.checks if not check.passed}


@pytest.mark.parametrize("defense", [Identity(), Smoothing(sigma=0.02)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_sound_gradients_pass(defense, norm):
    eps = {"linf": 8 / 255, "l2": 0.6, "l1": 12.0}[norm]
    attack = PGD(eps=eps, steps=10, step_size=eps / 4, norm=norm, gradient=EOT(samples=2))
    seen = []
    outcome = run(defense, attack=attack, progress=lambda course: seen.append(course.name))
    assert outcome.passed, outcome.checks
    assert failed(outcome) == set()
    assert [course.name for course in outcome.courses if course.name == "white box"] == ["white box"]
    assert {"white box", "eps × 0.25", "eps × 4", "1 steps", "transfer", "noise"} <= set(seen)
    assert ("square" in seen) == (norm != "l1")
    assert 0 < outcome.attacked <= outcome.images == 24


class _Hidden(Smoothing):
    """Rounds to 8 bits, with a gradient of zero everywhere: the classic false robustness."""

    def apply(self, images, params):
        return (images * 255).round() / 255


class _Reversed(Smoothing):
    """The right values with the gradient of the wrong sign."""

    def apply(self, images, params):
        return straight_through(images, -images)


class _Misled(Smoothing):
    """The right values with a gradient whose signs are those of a chequerboard."""

    def apply(self, images, params):
        chequered = (-1.0) ** torch.arange(images.shape[2])[:, None] * (-1.0) ** torch.arange(images.shape[3])
        return straight_through(images, images * chequered)


def test_no_gradient_fails():
    outcome = run(_Hidden())
    assert not outcome.passed
    words = next(check.words for check in outcome.checks if not check.passed)
    assert words.startswith(f"{outcome.attacked} of {outcome.attacked} have none at any step: no gradient reaches")
    assert "through hidden" in words
    assert "success reaches 100 % at the largest eps" in failed(outcome)
    assert "white box at least as good as transfer" in failed(outcome)


@pytest.mark.parametrize("defense", [_Reversed(), _Misled()])
def test_gradients_that_mislead_fail(defense):
    outcome = run(defense)
    assert "white box at least as good as transfer" in failed(outcome)
    words = next(check.words for check in outcome.checks if check.name.endswith("transfer"))
    assert "fall to transfer only, 0 to the white box only; the gradients mislead" in words


def test_steps_that_are_too_large_fail():
    """One step of the right length breaks what many that are far too long miss."""

    class Striped(Linear):
        def forward(self, images):
            score = torch.sin(120 * (images.mean((1, 2, 3)) - 0.5))
            return torch.stack((-score, score), dim=1)

    outcome = run(Identity(), Striped(), PGD(eps=0.05, steps=20, step_size=0.05))
    assert failed(outcome) & {
        "success rises with eps",
        "success rises with steps",
        "success reaches 100 % at the largest eps",
    }


def test_nothing_to_attack_is_refused():
    defended = DefendedClassifier(Classifier(Linear(), input_size=(12, 12)), Identity())
    wrong = 1 - defended(images()).argmax(1)
    with pytest.raises(InputError, match="at least one image must be voted right before the attack, got none of 24"):
        check_sanity(defended, images(), wrong, ATTACK)
