"""Goals, one by one and mixed, and the targets that are chosen for the images."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Mixed, Targeted, Untargeted, as_goal, goal_for
from cannonade.attacks.losses import LOSSES, cross_entropy
from cannonade.attacks.pgd import PGD
from cannonade.attacks.targets import choose_targets, parse_target, random_targets
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.evaluation.outcome import evaluate_batch
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
TARGETS = torch.tensor([-1, 3, 2, -1, 1, 0])


def linear(classes=4, gain=1.0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes, bias=False))
    generator = torch.Generator().manual_seed(0)
    net[1].weight.data = gain * torch.randn(classes, 3 * 8 * 8, generator=generator)
    return Classifier(net, input_size=(8, 8))


def images(count=6):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_mixed_is_row_by_row_what_its_parts_are(name):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    predicted = logits.argmax(1)
    mixed = Mixed(LABELS, TARGETS)
    for row in range(6):
        one = slice(row, row + 1)
        part = Untargeted(LABELS[one]) if TARGETS[row] < 0 else Targeted(TARGETS[one], LABELS[one])
        assert torch.equal(mixed[one].objective(logits[one], LOSSES[name]), part.objective(logits[one], LOSSES[name]))
        assert torch.equal(mixed.objective(logits, LOSSES[name])[one], part.objective(logits[one], LOSSES[name]))
        assert torch.equal(mixed.reached(predicted)[one], part.reached(predicted[one]))


@pytest.mark.parametrize("attack", [PGD(steps=5), AutoPGD(steps=5, eps=8 / 255)], ids=["pgd", "auto_pgd"])
def test_a_mixed_batch_is_attacked_as_its_parts(attack):
    attack = replace(attack, gradient=EOT(samples=2, chunk=4))
    defended = DefendedClassifier(linear(), Smoothing(sigma=0.1))
    ids = torch.arange(6)
    mixed = attack(defended, images(), Mixed(LABELS, TARGETS), ids=ids).images
    aimed = TARGETS >= 0
    for rows, goal in ((aimed, Targeted(TARGETS[aimed])), (~aimed, Untargeted(LABELS[~aimed]))):
        torch.testing.assert_close(attack(defended, images()[rows], goal, ids=ids[rows]).images, mixed[rows])


def test_slices_keep_labels():
    goal = Targeted(TARGETS, LABELS)[torch.tensor([1, 4])]
    assert goal.labels.tolist() == [1, 0]
    assert goal.targets.tolist() == [3, 1]
    assert Targeted(TARGETS)[1:3].labels is None
    assert len(Mixed(LABELS, TARGETS)[2:]) == 4


def test_goal_for():
    assert isinstance(goal_for(LABELS, None, 4), Untargeted)
    assert isinstance(goal_for(LABELS, LABELS, 4), Targeted)
    assert isinstance(goal_for(LABELS, TARGETS, 4), Mixed)
    assert isinstance(goal_for(LABELS[:0], LABELS[:0], 4), Targeted)
    assert isinstance(as_goal(LABELS.int()), Untargeted)
    with pytest.raises(InputError, match="targets must be classes, 0 … 2, or -1 for untargeted, got -1 to 3"):
        goal_for(LABELS, TARGETS, 3)
    with pytest.raises(InputError, match=r"targets must be \[6\] int64, got \[2\]"):
        goal_for(LABELS, TARGETS[:2], 4)


def test_random_targets_are_uniform_over_the_other_classes():
    """χ² over the nine others at false alarm 1e-4; a choice that may hit the label fails at once."""
    ids = torch.arange(9000)
    labels = ids % 10
    targets = random_targets(labels, 10, 3, ids)
    assert (targets != labels).all()
    steps = (targets - labels) % 10
    assert stats.chisquare(torch.bincount(steps, minlength=10)[1:].numpy()).pvalue > 1e-4
    rows = torch.tensor([17, 4000])
    assert torch.equal(random_targets(labels[rows], 10, 3, ids[rows]), targets[rows])
    assert not torch.equal(random_targets(labels, 10, 4, ids), targets)
    assert random_targets(labels % 2, 2, 0, ids).tolist() == (1 - labels % 2).tolist()


def test_least_likely():
    """Behind no defense it is the class of the smallest logit; behind noise it does not depend on batch or chunk."""
    plain = DefendedClassifier(linear(), Identity())
    ids = torch.arange(6)
    chosen = choose_targets("least_likely", plain, images(), LABELS, ids)
    assert torch.equal(chosen, plain.classifier(images()).argmin(1))
    noisy = DefendedClassifier(linear(gain=0.2), Smoothing(sigma=0.5))
    whole = choose_targets("least_likely", noisy, images(), LABELS, ids, 5)
    rows = torch.tensor([4, 2])
    assert torch.equal(choose_targets("least_likely", noisy, images()[rows], LABELS[rows], ids[rows], 3), whole[rows])
    assert len(choose_targets("least_likely", plain, images(0), LABELS[:0], ids[:0])) == 0


def test_one_target_for_all():
    defended = DefendedClassifier(linear(), Identity())
    assert choose_targets(2, defended, images(), LABELS, torch.arange(6)).tolist() == [2] * 6
    with pytest.raises(InputError, match="target must be one of the model's classes, 0 … 3, got 4"):
        choose_targets(4, defended, images(), LABELS, torch.arange(6))


def test_a_single_class_has_no_targets():
    defended = DefendedClassifier(linear(1), Identity())
    with pytest.raises(InputError, match="a target needs at least two classes, got 1"):
        choose_targets("random", defended, images(), torch.zeros(6, dtype=torch.int64), torch.arange(6))


def test_names_of_targets():
    assert [parse_target(text) for text in ("7", "least_likely", "random")] == [7, "least_likely", "random"]
    with pytest.raises(InputError, match="target must be a class number, 'least_likely' or 'random', got 'seven'"):
        parse_target("seven")


def test_images_whose_target_is_their_label_are_not_attacked():
    defended = DefendedClassifier(linear(), Identity())
    labels = defended.classifier(images()).argmax(1)
    targets = labels.clone()
    targets[1], targets[4] = -1, (labels[4] + 1) % 4
    attack = PGD(eps=0.5, steps=5, step_size=0.2)
    outcome = evaluate_batch(defended, images(), labels, attack, votes=3, targets=targets)
    assert outcome.attacked.tolist() == [1, 4]
    assert outcome.success.all()
    assert outcome.final.labels[1] == targets[4]
    assert outcome.goal.objective(torch.zeros(2, 4), cross_entropy).shape == (2,)
