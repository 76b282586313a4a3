"""PGD: parity with three other libraries, its promises about norm and box, and what it does with bad gradients."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.norms import NORMS
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.models import load_model
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

SETTINGS = {"linf": {"eps": 8 / 255, "step_size": 2 / 255}, "l2": {"eps": 1.5, "step_size": 0.4}}
STEPS = 5


@pytest.fixture(scope="module")
def classifier():
    return load_model("efficientnet_lite0")


def by_torchattacks(model, images, labels, norm, targets):
    import torchattacks

    eps, step = SETTINGS[norm].values()
    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    attack = kind(model, eps=eps, alpha=step, steps=STEPS, random_start=False)
    if targets is not None:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(images, labels if targets is None else targets)


def by_foolbox(model, images, labels, norm, targets):
    import foolbox

    eps, step = SETTINGS[norm].values()
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    criterion = foolbox.criteria.Misclassification(labels)
    if targets is not None:
        criterion = foolbox.criteria.TargetedMisclassification(targets)
    attack = kind(abs_stepsize=step, steps=STEPS, random_start=False)
    _, clipped, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1)), images, criterion, epsilons=eps)
    return clipped


def by_cleverhans(model, images, labels, norm, targets):
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    eps, step = SETTINGS[norm].values()
    y = labels if targets is None else targets
    return projected_gradient_descent(
        model, images, eps, step, STEPS, np.inf, clip_min=0, clip_max=1, y=y, targeted=targets is not None,
        rand_init=False, sanity_checks=False,
    )  # fmt: skip


# Cleverhans clips to the box before it projects in L2, which is another algorithm (up to 7e-3 away).
PEERS = [
    (by_torchattacks, "linf"),
    (by_torchattacks, "l2"),
    (by_foolbox, "linf"),
    (by_foolbox, "l2"),
    (by_cleverhans, "linf"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("peer", "norm"), PEERS)
def test_equals_peers(peer, norm, targeted, classifier, photos):
    """L2 in double precision: peers order the same operations differently, and in single precision the network turns a
    difference of one rounding in a step into 1e-3 within five."""
    double = norm == "l2"
    classifier = copy.deepcopy(classifier).double() if double else classifier
    images = photos[:2].double() if double else photos[:4]
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    targets = (labels + 500) % 1000 if targeted else None
    attack = PGD(**SETTINGS[norm], steps=STEPS, norm=norm, gradient=EOT(chunk=4))
    goal = Targeted(targets) if targeted else Untargeted(labels)
    ours = attack(DefendedClassifier(classifier, Identity()), images, goal).images
    theirs = peer(classifier, images.clone(), labels, norm, targets).detach()
    assert (ours - images).abs().max() > 0.01
    assert (ours - theirs).abs().max() <= 1e-6


class Linear(nn.Module):
    """Two classes by one random direction; saturates nowhere."""

    def __init__(self, size=3 * 8 * 8):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(2)))

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ self.direction
        return torch.stack((-score, score), dim=1)


def defend(module, defense, **settings):
    return DefendedClassifier(Classifier(module, input_size=(8, 8)), defense, **settings)


def toy(count=6):
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return images, torch.arange(count) % 2


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_ball_and_box(norm, random_start):
    images, labels = toy()
    images[0] = 0
    images[1] = 1
    eps = SETTINGS[norm]["eps"]
    attack = PGD(eps=eps, step_size=eps, steps=7, norm=norm, random_start=random_start, gradient=EOT(samples=2))
    result = attack(defend(Linear(), Smoothing(sigma=0.1)), images, labels)
    distance = NORMS[norm].distance(result.images.double() - images.double())
    assert (distance <= (eps + 1e-6 if norm == "linf" else eps * (1 + 1e-5))).all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.gradients.tolist() == [14] * 6
    assert result.forwards.tolist() == [14] * 6


def test_untargeted_and_targeted_move_the_loss():
    images, labels = toy()
    defended = defend(Linear(), Identity())

    def margin(batch):
        logits = defended(batch)
        return logits.gather(1, labels[:, None])[:, 0]

    away = PGD()(defended, images, labels).images
    towards = PGD()(defended, images, Targeted(labels)).images
    assert (margin(away) < margin(images)).all()
    assert (margin(towards) > margin(images)).all()


def test_draws_do_not_depend_on_the_batch():
    images, labels = toy()
    defended = defend(Linear(), Smoothing(sigma=0.5))
    attack = PGD(steps=3, gradient=EOT(samples=3, chunk=5), random_start=True)
    ids = torch.tensor([4, 9, 1, 0, 100, 7])
    whole = attack(defended, images, labels, ids=ids).images
    order = torch.tensor([5, 2])
    part = attack(defended, images[order], labels[order], ids=ids[order]).images
    torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-6)
    other = attack(defended, images[order], labels[order], ids=ids[order] + 1).images
    assert not torch.allclose(other, whole[order], atol=1e-4)


def test_seed_decides():
    images, labels = toy()
    attack = PGD(steps=2, random_start=True)
    first, again, other = (
        attack(defend(Linear(), Smoothing(sigma=0.5), seed=seed), images, labels).images for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nan_gradients_are_reported_and_never_stepped_on():
    class Cracked(Linear):
        def forward(self, images):
            return super().forward(images) + 0 * (0.9 - images.mean((1, 2, 3))).sqrt()[:, None]

    images, labels = toy()
    images[2] = 0.95
    result = PGD(steps=4)(defend(Cracked(), Identity()), images, labels)
    assert result.nonfinite.tolist() == [0, 0, 4, 0, 0, 0]
    assert torch.equal(result.images[2], images[2])
    assert result.images.isfinite().all()
    assert (result.images[3] - images[3]).abs().max() > 0.01


def test_zero_gradients_are_reported():
    class Flat(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 2) + 0 * images.sum((1, 2, 3))[:, None]

    images, labels = toy()
    result = PGD(steps=3)(DefendedClassifier(Flat(), Identity()), images, labels)
    assert result.zero.tolist() == [3] * 6
    assert torch.equal(result.images, images)


def test_eps_zero_returns_the_input():
    images, labels = toy()
    result = PGD(eps=0.0, steps=2)(defend(Linear(), Smoothing()), images, labels)
    assert torch.equal(result.images, images)


def test_empty_batch():
    images, labels = toy()
    result = PGD()(defend(Linear(), Identity()), images[:0], labels[:0])
    assert result.images.shape == (0, 3, 8, 8)
    assert result.gradients.shape == (0,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 8}, r"eps must be in \[0, 1\] for linf.*for 8/255 write 8/255.*got 8"),
        ({"eps": -1, "norm": "l2"}, "eps must be"),
        ({"eps": float("nan")}, "eps must be"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"norm": "l7"}, "norm must be one of linf, l2, got 'l7'"),
        ({"loss": "dlr?"}, "loss must be one of cross_entropy"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        PGD(**settings)


def test_mismatched_input_is_refused():
    images, labels = toy()
    defended = defend(Linear(), Identity())
    with pytest.raises(InputError, match="one label or target per image, got 2 for 6 images"):
        PGD()(defended, images, labels[:2])
    with pytest.raises(InputError, match="ids must be one integer per image"):
        PGD()(defended, images, labels, ids=torch.arange(2))
    with pytest.raises(InputError, match=r"ids must be in \[0, 2\^32\)"):
        PGD()(defended, images, labels, ids=torch.arange(6) - 1)


def test_repr_names_everything():
    attack = PGD(gradient=EOT(samples=3))
    assert eval(repr(attack), {"PGD": PGD, "EOT": EOT}) == attack
    assert replace(attack, steps=3) != attack
