"""Losses against their definitions, computed one row at a time, and against the authors' own."""

import pytest
import torch

from cannonade.attacks.goals import Mixed, Targeted, Untargeted
from cannonade.attacks.losses import LOSSES, check_loss, cross_entropy, dlr, dlr_targeted, margin
from cannonade.errors import InputError

GENERATOR = torch.Generator().manual_seed(4)
LOGITS = torch.randn(200, 7, generator=GENERATOR, dtype=torch.float64) * 3
LABELS = torch.randint(7, (200,), generator=GENERATOR)
TARGETS = (LABELS + torch.randint(1, 7, (200,), generator=GENERATOR)) % 7


def by_hand(name, row, label, target):
    ranked = sorted(row, reverse=True)
    own, others = row[label], [value for place, value in enumerate(row) if place != label]
    return {
        "cross_entropy": -torch.tensor(row).log_softmax(0)[label].item(),
        "margin": max(others) - own,
        "dlr": -(own - max(others)) / (ranked[0] - ranked[2]),
        "dlr_targeted": -(own - row[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2),
    }[name]


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_definition(name):
    """What an attack maximises: the loss of the label, and for the targeted one minus the loss of the target."""
    expected = torch.tensor(
        [
            by_hand(name, row, label, target)
            for row, label, target in zip(LOGITS.tolist(), LABELS.tolist(), TARGETS.tolist(), strict=True)
        ]
    )
    goal = Targeted(TARGETS, LABELS) if name == "dlr_targeted" else Untargeted(LABELS)
    torch.testing.assert_close(goal.objective(LOGITS, LOSSES[name]), expected.double(), rtol=1e-6, atol=1e-6)


def test_equals_the_authors():
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    authors = APGDAttack(None, eps=1.0)
    torch.testing.assert_close(dlr(LOGITS, LABELS), authors.dlr_loss(LOGITS, LABELS))
    targeted = APGDAttack_targeted(None, eps=1.0)
    targeted.y_target = TARGETS
    ours = Targeted(TARGETS, LABELS).objective(LOGITS, dlr_targeted)
    torch.testing.assert_close(ours, targeted.dlr_loss_targeted(LOGITS, LABELS))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    goal = Targeted(TARGETS[:8], LABELS[:8])
    logits = LOGITS[:8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: goal.objective(values, LOSSES[name]), logits)


def test_dlr_of_targets_is_the_targeted_one():
    """The untargeted ratio of a target in third place is −1 whatever the logits: nothing to climb."""
    goal = Targeted(LOGITS.topk(3, dim=1).indices[:, 2], LABELS)
    logits = LOGITS.clone().requires_grad_()
    (lost,) = torch.autograd.grad(dlr(logits, goal.targets).sum(), logits)
    assert lost.abs().max() < 1e-9
    assert torch.equal(goal.objective(LOGITS, dlr), goal.objective(LOGITS, dlr_targeted))
    with pytest.raises(InputError, match="dlr_targeted needs at least 4 classes"):
        check_loss("dlr", 3, targeted=True)


def test_signs_agree_with_success():
    wrong = LOGITS.argmax(1) != LABELS
    assert torch.equal(margin(LOGITS, LABELS) > 0, wrong)
    assert torch.equal(dlr(LOGITS, LABELS) > 0, wrong)
    hit = Targeted(TARGETS, LABELS).objective(LOGITS, margin) > 0
    assert torch.equal(hit, LOGITS.argmax(1) == TARGETS)


@pytest.mark.parametrize("name", ["dlr", "dlr_targeted"])
def test_ratios_ignore_shift_and_scale(name):
    goal = Targeted(TARGETS, LABELS)
    value, other = (goal.objective(logits, LOSSES[name]) for logits in (LOGITS, LOGITS * 50 + 3))
    torch.testing.assert_close(value, other)


@pytest.mark.parametrize("name", ["margin", "dlr", "dlr_targeted"])
def test_equal_logits_stay_finite(name):
    logits = torch.zeros(3, 5, requires_grad=True)
    value = Targeted(torch.tensor([0, 1, 4]), torch.tensor([1, 2, 3])).objective(logits, LOSSES[name])
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert not value.any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("name", "classes"), [("margin", 1), ("dlr", 2), ("dlr_targeted", 3)])
def test_too_few_classes(name, classes):
    words = f"{name} needs at least {classes + 1} classes, but the classifier has {classes}"
    zeros = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match=words):
        LOSSES[name](LOGITS[:4, :classes], zeros, zeros if name == "dlr_targeted" else None)
    with pytest.raises(InputError, match=words):
        check_loss(name, classes, targeted=name == "dlr_targeted")
    LOSSES[name](LOGITS[:4, : classes + 1], zeros, zeros if name == "dlr_targeted" else None)


def test_one_class_is_enough_for_the_cross_entropy():
    assert not cross_entropy(LOGITS[:4, :1], torch.zeros(4, dtype=torch.int64)).any()


@pytest.mark.parametrize(
    "goal", [Untargeted(LABELS), Targeted(TARGETS), Mixed(LABELS, TARGETS)], ids=["untargeted", "no labels", "mixed"]
)
def test_targeted_dlr_needs_labels_and_targets(goal):
    with pytest.raises(InputError, match="a target and a true label for every image"):
        goal.objective(LOGITS, dlr_targeted)


def test_unknown_loss():
    with pytest.raises(InputError, match="loss must be one of cross_entropy, margin, dlr, dlr_targeted, got 'ce'"):
        check_loss("ce", 10, targeted=False)
