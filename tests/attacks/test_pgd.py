"""PGD: parity with three other libraries, its promises about norm and box, and what it does with bad gradients."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.losses import LOSSES
from cannonade.attacks.norms import NORMS
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.models import load_model
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

SETTINGS = {
    "linf": {"eps": 8 / 255, "step_size": 2 / 255},
    "l2": {"eps": 1.5, "step_size": 0.4},
    "l1": {"eps": 6.0, "step_size": 2.0},
}
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
        model, images, eps, step, STEPS, {"linf": np.inf, "l2": 2}[norm], clip_min=0, clip_max=1, y=y,
        targeted=targets is not None, rand_init=False, sanity_checks=False,
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


def test_other_order_equals_cleverhans():
    """On a linear classifier, because cleverhans computes in single precision whatever it is given."""
    images, labels = toy()
    images = (3 * images - 1).clamp(
        0, 1
    )  # a third of the values at a bound of the box, which is where the orders differ
    module = Linear()
    theirs = by_cleverhans(module, images.clone(), labels, "l2", None).detach()
    results = {
        order: PGD(**SETTINGS["l2"], steps=STEPS, norm="l2", order=order)(
            defend(module, Identity()), images, labels
        ).images
        for order in ("clip_project", "project_clip")
    }
    assert (results["clip_project"] - theirs).abs().max() <= 1e-6
    assert (results["project_clip"] - theirs).abs().max() > 1e-3


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
    with pytest.warns(UserWarning, match="no gradient reaches the image through the classifier Flat"):
        result = PGD(steps=3)(DefendedClassifier(Flat(), Identity()), images, labels)
    assert result.zero.tolist() == [3] * 6
    assert torch.equal(result.images, images)


class _Steps(Smoothing):
    """Rounds, and so has gradient zero everywhere: the classic false robustness."""

    def apply(self, images, params):
        return (images * 4).round() / 4


def test_where_the_gradient_is_lost_is_said():
    images, labels = toy()
    with pytest.warns(UserWarning, match="no gradient reaches the image through steps.*backward='identity'"):
        PGD(steps=2)(defend(Linear(), _Steps()), images, labels)
    straight = PGD(steps=2)(defend(Linear(), _Steps(backward="identity")), images, labels)
    assert not straight.zero.any()

    class Certain(Linear):
        def forward(self, images):
            return 1e4 * super().forward(images)

    certain = defend(Certain(), Identity())
    predicted = certain(images).argmax(1)
    with pytest.warns(UserWarning, match="no gradient reaches the image through the loss.*loss='margin'"):
        PGD(steps=2)(certain, images, predicted)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("order", ["project_clip", "clip_project"])
@pytest.mark.parametrize("random_start", [False, True])
def test_eps_zero_returns_the_input(norm, order, random_start):
    images, labels = toy()
    attack = PGD(eps=0.0, steps=2, norm=norm, order=order, random_start=random_start)
    assert torch.equal(attack(defend(Linear(), Smoothing()), images, labels).images, images)


def test_momentum_equals_a_peer(classifier, photos):
    from torchattacks import MIFGSM

    images = photos[:4]
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    theirs = MIFGSM(classifier, eps=8 / 255, alpha=2 / 255, steps=3, decay=0.9)(images, labels)
    attack = PGD(eps=8 / 255, step_size=2 / 255, steps=3, momentum=0.9, gradient=EOT(chunk=4))
    ours = attack(DefendedClassifier(classifier, Identity()), images, labels).images
    assert (ours - theirs).abs().max() <= 1e-6


def test_aggregated_momentum_is_sitawarin_s():
    """Algorithm 1 written out for one image: v_b ← μ_b·v_b + sign(g), x ← x + α/B Σ v_b, with the linear loss."""
    images, labels = toy()
    module, dampings = Linear(), (0, 0.9, 0.99)
    point, velocities = images.clone(), [torch.zeros_like(images) for _ in dampings]
    for _ in range(4):
        leaf = point.clone().requires_grad_()
        logits = module(leaf)
        linear = logits.gather(1, 1 - labels[:, None]) - logits.gather(1, labels[:, None])
        (gradient,) = torch.autograd.grad(linear.sum(), leaf)
        velocities = [
            damping * velocity + gradient.sign() for damping, velocity in zip(dampings, velocities, strict=True)
        ]
        point = point + 0.01 * sum(velocities) / 3
        point = (images + (point - images).clamp(-0.05, 0.05)).clamp(0, 1)
    attack = PGD(eps=0.05, step_size=0.01, steps=4, momentum=dampings, loss="margin")
    ours = attack(defend(module, Identity()), images, labels).images
    torch.testing.assert_close(ours, point, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "sizes"),
    [
        ("constant", [1.0] * 8),
        ("halving", [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("cosine", [(1 + np.cos(np.pi * step / 8)) / 2 for step in range(8)]),
    ],
)
def test_schedules(schedule, sizes):
    """A linear classifier far from its bounds moves by the sum of the steps."""
    images, labels = toy()
    images = 0.4 + 0.2 * images
    attack = PGD(eps=0.3, step_size=0.01, steps=8, schedule=schedule)
    moved = (attack(defend(Linear(), Identity()), images, labels).images - images).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01 * sum(sizes)), rtol=0, atol=1e-6)


def test_raw_gradients_are_learning_rate_steps():
    images, labels = toy()
    images = 0.4 + 0.2 * images
    module = Linear()
    leaf = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(module(leaf), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    attack = PGD(eps=5.0, norm="l2", step_size=0.01, steps=1, direction="gradient")
    ours = attack(defend(module, Identity()), images, labels).images
    torch.testing.assert_close(ours, images + 0.01 * gradient, rtol=0, atol=1e-6)


class Wavy(Linear):
    """Every pixel has several local optima, so that starts end in different ones."""

    def forward(self, images):
        score = (torch.sin(40 * images.flatten(1)) * self.direction).mean(1)
        return torch.stack((-score, score), dim=1)


def test_restarts_return_the_best_by_vote():
    """More restarts never lose in the selection vote, and cost what they must."""
    images, labels = toy()
    defended = defend(Wavy(), Smoothing(sigma=0.1), seed=4)
    attack = PGD(eps=0.05, step_size=0.01, steps=3, random_start=True, selection_votes=100)

    def wrong(result):
        counts = majority_vote(defended, result.images, 100, phase=Phase.SELECTION).counts
        return 100 - counts.gather(1, labels[:, None])[:, 0]

    single = attack(defended, images, labels)
    several = replace(attack, restarts=4)(defended, images, labels)
    assert (wrong(several) >= wrong(single)).all()
    assert (wrong(several) > wrong(single)).any()
    assert several.gradients.tolist() == [12] * 6
    assert several.forwards.tolist() == [12 + 4 * 100] * 6
    assert single.forwards.tolist() == [3] * 6


def test_restarts_do_not_shift_draws():
    """An image's course is the same whoever else is attacked, also when others are frozen and left out."""
    images, labels = toy()
    defended = defend(Linear(), Smoothing(sigma=0.5), seed=4)
    for attack in (
        PGD(eps=0.05, steps=4, step_size=0.02, restarts=2),
        PGD(eps=0.05, steps=6, step_size=0.01, restarts=2, freeze_every=2, gradient=EOT(samples=2, chunk=5)),
    ):
        whole = attack(defended, images, labels)
        for row in range(6):
            one = slice(row, row + 1)
            alone = attack(defended, images[one], labels[one], ids=torch.tensor([row]))
            torch.testing.assert_close(alone.images, whole.images[one], rtol=0, atol=1e-6)
            assert (alone.gradients, alone.forwards) == (whole.gradients[row], whole.forwards[row])


def test_broken_images_are_frozen():
    """On a deterministic classifier, a frozen image stands still at the first vote that shows it broken; others go on."""
    images, labels = toy()
    defended = defend(Linear(), Identity())
    attack = PGD(eps=0.3, steps=12, step_size=0.005, freeze_every=2, selection_votes=5)
    result = attack(defended, images, labels)
    predicted = defended(images).argmax(1)
    for row in range(6):
        steps = int(result.gradients[row])
        if predicted[row] != labels[row]:
            assert steps == 2
            continue
        assert steps % 2 == 0
        assert (defended(result.images)[row].argmax() != labels[row]) or steps == 12
        before = replace(attack, steps=max(steps - 2, 1), freeze_every=0)(defended, images, labels).images
        assert defended(before)[row].argmax() == labels[row]
    assert 2 < result.gradients.max() < 12
    assert attack(defended, images, defended(result.images).argmax(1)).images.isfinite().all()


def test_everybody_frozen_ends_the_attack():
    images, _ = toy()
    defended = defend(Linear(), Identity())
    wrong = 1 - defended(images).argmax(1)
    result = PGD(steps=50, freeze_every=1, restarts=3)(defended, images, wrong)
    assert result.gradients.tolist() == [1] * 6


def test_one_vote_freezes_on_a_deterministic_classifier():
    """Of so few votes that none leads by 2·√votes, all must agree."""
    images, labels = toy()
    defended = defend(Linear(), Identity())
    attack = PGD(eps=0.3, steps=12, step_size=0.005, freeze_every=1, selection_votes=1)
    result = attack(defended, images, labels)
    assert ((defended(result.images).argmax(1) != labels) == (result.gradients < 12)).all()
    assert 1 < result.gradients.max() < 12


def test_stop_leaves_an_image_alone_once_no_draw_is_right():
    """At the point returned the next draws are all wrong, one step before they were not, and others go on."""
    images, labels = toy()
    defended = defend(Linear(), Smoothing(sigma=0.3), seed=4)
    attack = PGD(eps=0.5, steps=30, step_size=0.01, stop=True, gradient=EOT(samples=7, chunk=20))
    result = attack(defended, images, labels)
    number = result.gradients // 7
    assert 1 < number.min() < number.max() < 30
    for row in range(6):
        right = []
        for before in (0, 1):
            steps = int(number[row]) - 1 - before
            point = images[row : row + 1]
            if steps:
                plain = replace(attack, steps=steps, stop=False)
                point = plain(defended, point, labels[row : row + 1], ids=torch.tensor([row])).images
            if not before:
                torch.testing.assert_close(point, result.images[row : row + 1])
            queries = torch.arange(7 * steps, 7 * steps + 7)
            draws = Draws(seed=4, phase=Phase.ATTACK, images=torch.full((7,), row), queries=queries)
            predicted = defended.logits(point.expand(7, -1, -1, -1), draws).argmax(1)
            right.append(int((predicted == labels[row]).sum()))
        assert right[0] == 0 < right[1]


@pytest.mark.parametrize("average", ["loss", "logits"])
@pytest.mark.parametrize("chunk", [3, 64])
def test_what_all_draws_reached_is_the_same_in_any_chunk(average, chunk):
    images, labels = toy()
    defended = defend(Linear(), Smoothing(sigma=3.0), seed=4)
    draws = Draws(seed=4, phase=Phase.ATTACK, images=torch.arange(6), queries=torch.zeros(6, dtype=torch.int64))
    found = EOT(samples=2, average=average, chunk=chunk).estimate(
        defended, images, Untargeted(labels), LOSSES["margin"], draws
    )
    each = [defended.logits(images, replace(draws, queries=draws.queries + j)).argmax(1) != labels for j in range(2)]
    assert torch.equal(found.reached, each[0] & each[1])
    assert 0 < int(found.reached.sum()) < 6


def test_adam_on_signs_equals_torch_s():
    images, labels = toy()
    module = Linear()
    point = images.clone().requires_grad_()
    adam = torch.optim.Adam([point], lr=0.02, maximize=True)
    wavy = Wavy()
    for _ in range(8):
        loss = nn.functional.cross_entropy(wavy(point), labels, reduction="sum")
        point.grad = torch.autograd.grad(loss, point)[0].sign()
        adam.step()
        point.data = point.data.clamp(images - 0.05, images + 0.05).clamp(0, 1)
    attack = PGD(eps=0.05, step_size=0.02, steps=8, direction="adam")
    torch.testing.assert_close(attack(defend(wavy, Identity()), images, labels).images, point.data, rtol=0, atol=1e-5)
    once = replace(attack, steps=1, step_size=0.01)(defend(module, Identity()), images, labels).images
    inside = (images > 0.01) & (images < 0.99)
    torch.testing.assert_close((once - images).abs()[inside], torch.full_like(once, 0.01)[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, (0, 0.9)])
def test_momentum_survives_a_gradient_that_is_not_finite(momentum):
    class Moody(Linear):
        calls = 0

        def forward(self, images):
            self.calls += 1
            return super().forward(images) * (float("nan") if self.calls == 3 else 1)

    images, labels = toy()
    module = Moody()
    defended = defend(module, Identity())
    defended.classifier.network.module.calls = 0
    result = PGD(steps=5, momentum=momentum, gradient=EOT(chunk=6))(defended, images, labels)
    assert result.nonfinite.tolist() == [1] * 6
    assert result.images.isfinite().all()
    assert ((result.images - images).abs().amax((1, 2, 3)) > 3 / 255).all()


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
        ({"norm": "l7"}, "norm must be one of linf, l2, l1, got 'l7'"),
        ({"loss": "dlr?"}, "loss must be one of cross_entropy"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, halving, got 'linear'"),
        ({"direction": "raw"}, "direction must be one of steepest, gradient, adam, got 'raw'"),
        ({"direction": "adam", "momentum": 0.9}, "momentum must be 0 with direction='adam'"),
        ({"stop": True, "gradient": FiniteDifferences()}, "stop must be False without EOT"),
        ({"order": "clip"}, "order must be one of project_clip, clip_project, got 'clip'"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), or several such numbers, got 1.0"),
        ({"momentum": ()}, "momentum must be"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"freeze_every": -1}, "freeze_every must be at least 0, got -1"),
        ({"selection_votes": 0}, "selection_votes must be at least 1, got 0"),
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
