"""The comparison with other libraries, on a small net behind strong noise: planted defects are found, equals are not."""

import pytest
import torch
from scipy import stats
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.pgd import PGD
from cannonade.bench import attacks, peers
from cannonade.bench.attacks import compare, ours
from cannonade.bench.peers import Budget
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.evaluation.statistics import mcnemar
from cannonade.transforms.noise import Smoothing

# foolbox and ART use what others have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BUDGET = Budget(eps=0.07, steps=6, step_size=0.02, samples=8)


@pytest.fixture(scope="module")
def subject():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 24), nn.Tanh(), nn.Linear(24, 5))
    generator = torch.Generator().manual_seed(2)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    defended = DefendedClassifier(Classifier(net, input_size=(8, 8)), Smoothing(sigma=0.2))
    images = 0.2 + 0.6 * torch.rand(300, 3, 8, 8, generator=generator)
    return defended, images, defended.classifier(images).argmax(1)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 0), (7, 2), (40, 41), (0, 25)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, abs=1e-12)


def test_peers_agree_and_planted_defects_are_found(subject, monkeypatch):
    """Level .01 a test; six tests of equals each have a chance of .02 at most to fail, with a fixed seed."""
    defended, images, labels = subject
    pairs = {name: attacks.PAIRS[name] for name in ("torchattacks EOTPGD", "foolbox PGD, EOT wrapper")}
    monkeypatch.setattr(attacks, "PAIRS", pairs)
    rows = {(row.first, row.second): row for row in compare(defended, images, labels, BUDGET, votes=30)}
    for own, peer in (("PGD, loss", "torchattacks EOTPGD"), ("PGD, logits", "foolbox PGD, EOT wrapper")):
        row = rows[own, peer]
        assert 0.2 < row.success[0] < 0.8, "otherwise the comparison shows nothing"
        assert not row.weaker, row
        assert row.seen < 0.1, row
    for defect in attacks.DEFECTS:
        assert rows[defect, "torchattacks EOTPGD"].weaker, rows[defect, "torchattacks EOTPGD"]


@pytest.mark.parametrize(
    "peer", [peers.pyautoattack_apgd, peers.adv_lib_apgd, peers.torchattacks_eotpgd, peers.art_pgd, peers.foolbox_eot]
)
def test_peers_stay_in_the_ball_and_leave_the_global_generator_alone(subject, peer):
    defended, images, labels = subject
    before = torch.random.get_rng_state()
    found = peer(defended, images[:4], labels[:4], BUDGET)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.shape == (4, 3, 8, 8)
    assert (found - images[:4]).abs().max() <= BUDGET.eps + 1e-6


def test_ours_spend_the_budget(subject):
    defended, images, labels = subject
    for name, attack in ours(BUDGET).items():
        result = attack(defended, images[:2], Untargeted(labels[:2]))
        expected = BUDGET.steps * (1 if name == "one-draw EOT" else BUDGET.samples)
        assert (result.gradients <= expected + BUDGET.samples).all(), name
    assert ours(BUDGET)["PGD, loss"] == PGD(
        eps=BUDGET.eps, steps=BUDGET.steps, step_size=BUDGET.step_size, gradient=EOT(samples=8)
    )


@pytest.mark.parametrize(
    "peer", [peers.pyautoattack_apgd, peers.adv_lib_apgd, peers.torchattacks_eotpgd, peers.foolbox_eot]
)
def test_peers_spend_the_budget(subject, peer):
    """k·m gradients, and at most m more where the start is looked at: adv_lib once took 100 steps whatever was asked."""
    defended, images, labels = subject
    passes = []

    class Counted(nn.Module):
        def forward(self, x):
            if x.requires_grad:
                passes.append(len(x))
            return defended(x)

    peer(Counted().eval(), images[:2], labels[:2], BUDGET)
    asked = BUDGET.steps * BUDGET.samples
    assert asked <= len(passes) <= asked + BUDGET.samples
