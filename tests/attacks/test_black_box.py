"""Attacks that only ask, and transfer: ball, box and budget, independence of the batch, and that they find what is there."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.losses import cross_entropy
from cannonade.attacks.nes import NES
from cannonade.attacks.noise import RandomNoise
from cannonade.attacks.norms import NORMS
from cannonade.attacks.pgd import PGD
from cannonade.attacks.square import Square
from cannonade.attacks.transfer import Transfer
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

ATTACKS = [
    Square(eps=0.1, queries=30),
    Square(eps=1.0, norm="l2", queries=30),
    Square(eps=0.1, queries=30, samples=3, reading="vote", requery=True),
    NES(eps=0.1, queries=60, pairs=5),
    NES(eps=1.0, norm="l2", queries=60, pairs=5, step_size=0.3, samples=2, sigma=1.0, reading="vote"),
    RandomNoise(eps=0.1),
    RandomNoise(eps=1.0, norm="l2", queries=4),
    RandomNoise(eps=5.0, norm="l1"),
    Transfer(attack=PGD(eps=0.1, steps=3)),
]


class Linear(nn.Module):
    """Two classes by one smooth direction, in which squares find something."""

    def __init__(self, side=12):
        super().__init__()
        coarse = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
        self.direction = nn.Parameter(nn.functional.interpolate(coarse, (side, side)).flatten() / side)

    def forward(self, images):
        score = (images.flatten(1) - 0.5) @ self.direction
        return torch.stack((-score, score), dim=1)


def defend(defense, **settings):
    return DefendedClassifier(Classifier(Linear(), input_size=(12, 12)), defense, **settings)


def toy(count=5):
    images = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    images[:2] = torch.tensor((0.0, 1.0))[:count, None, None, None]
    return images, defend(Identity())(images).argmax(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_contract(attack):
    """In ball and box, within budget, the same alone as in a batch, on draws that depend on the seed."""
    images, labels = toy()
    defended = defend(Smoothing(sigma=0.2), seed=1)
    result = attack(defended, images, labels)
    distance = NORMS[attack.norm].distance(result.images.double() - images.double())
    assert (distance <= attack.eps * (1 + 1e-5) + 1e-6).all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert (result.images - images).abs().amax((1, 2, 3)).min() > 1e-3
    if not isinstance(attack, Transfer):
        assert not result.gradients.any()
        assert (result.forwards <= attack.queries).all()
    ids = torch.tensor([3])
    alone = attack(defended, images[ids], labels[ids], ids=ids).images
    torch.testing.assert_close(alone, result.images[ids], rtol=0, atol=1e-6)
    empty = attack(defended, images[:0], labels[:0])
    assert empty.images.shape == (0, 3, 12, 12)


@pytest.mark.parametrize("attack", [Square(queries=9), NES(queries=50), RandomNoise(), Square(norm="l2", queries=9)])
def test_eps_zero_returns_the_input(attack):
    images, labels = toy()
    assert torch.equal(replace(attack, eps=0.0)(defend(Smoothing()), images, labels).images, images)


def objective(images, labels):
    logits = defend(Identity())(images)
    return logits.gather(1, 1 - labels[:, None])[:, 0] - logits.gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize(
    ("attack", "share"),
    [
        (Square(eps=0.1, queries=400), 0.6),
        (Square(eps=1.0, norm="l2", queries=400), 0.3),
        (NES(eps=0.1, queries=800, pairs=20, step_size=0.02, sigma=0.05), 0.4),
        (NES(eps=1.0, norm="l2", queries=800, pairs=20, step_size=0.3, sigma=0.05), 0.6),
    ],
    ids=repr,
)
def test_gain_a_good_part_of_what_gradients_gain(attack, share):
    """White box gains more, noise next to nothing; targeted goes the other way."""
    images, labels = toy()
    images = 0.3 + 0.4 * images
    defended = defend(Identity())
    labels = defended(images).argmax(1)
    white = PGD(eps=attack.eps, norm=attack.norm, steps=20, step_size=attack.eps / 5)
    noise = RandomNoise(eps=attack.eps, norm=attack.norm)
    before = objective(images, labels)
    gains = [objective(each(defended, images, labels).images, labels) - before for each in (white, attack, noise)]
    assert (gains[1] >= share * gains[0]).all()
    assert (gains[1] <= gains[0] * 1.001).all()
    assert (gains[2].abs() < 0.1 * gains[0]).all()
    towards = attack(defended, images, Targeted(labels)).images
    assert (objective(towards, labels) < before).all()


def test_votes_are_labels_only():
    """A vote sees no score: where every label is the same, ties move the point but tell it nothing; scores do."""
    images, labels = toy()
    images = 0.3 + 0.4 * images
    scaled = defend(Identity())
    attack = Square(eps=0.02, queries=60, samples=1, reading="vote")
    blind = attack(scaled, images, labels).images
    seeing = replace(attack, reading="mean")(scaled, images, labels).images
    assert (objective(seeing, labels) > objective(blind, labels)).all()


def test_requery_forgets_luck():
    """Where answers are noise alone, an incumbent that is asked once only becomes unbeatable; asked again it is replaced
    every second time. Binomial at 4.4 standard deviations, false alarm 1e-5."""

    class Noise(nn.Module):
        def forward(self, images):
            noise = torch.sin(1e4 * images.sum((1, 2, 3)))
            return torch.stack((-noise, noise), dim=1)

    defended = DefendedClassifier(Classifier(Noise(), input_size=(12, 12)), Smoothing(sigma=0.5))
    grey, label = torch.full((1, 3, 12, 12), 0.5), torch.zeros(1, dtype=torch.int64)
    seen = []

    class Spy(RandomNoise):
        def propose(self, images, best, number, draws):
            seen.append(hash(tuple(best.flatten().tolist())))
            return super().propose(images, best, number, draws)

    Spy(eps=0.1, queries=401)(defended, grey, label)
    assert len(set(seen)) < 30
    seen.clear()
    Spy(eps=0.1, queries=801, requery=True)(defended, grey, label)
    assert abs(len(set(seen)) - 200) < 4.4 * 10


def test_finite_differences_estimate_the_gradient():
    """Of a linear objective, E[estimate] = gradient; cosine with P = 2,000 pairs in d = 432 is near (1 + d/P)^−½ = .91."""
    images = 0.3 + 0.4 * toy()[0]
    labels = torch.ones(5, dtype=torch.int64)
    defended = defend(Identity())
    ids = torch.arange(5)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    exact = EOT().estimate(defended, images, Untargeted(labels), cross_entropy, draws)
    for chunk in (40, 20_000):
        differences = FiniteDifferences(pairs=2000 if chunk > 40 else 200, sigma=0.01, chunk=chunk)
        found = differences.estimate(defended, images, Untargeted(labels), cross_entropy, draws)
        cosine = torch.cosine_similarity(found.gradient.flatten(1), exact.gradient.flatten(1))
        expected = (1 + 432 / differences.pairs) ** -0.5
        assert (cosine - expected).abs().max() < 0.08
        torch.testing.assert_close(found.objective, exact.objective, rtol=0.02, atol=0.01)
        assert found.forwards == differences.queries


def test_finite_differences_do_not_depend_on_the_chunk():
    images, labels = toy()
    defended = defend(Smoothing(sigma=0.2))
    ids = torch.arange(5)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    few, many = (
        FiniteDifferences(pairs=7, samples=2, chunk=chunk)
        .estimate(defended, images, Untargeted(labels), cross_entropy, draws)
        .gradient
        for chunk in (3, 1000)
    )
    torch.testing.assert_close(few, many, rtol=1e-3, atol=1e-4)


def test_square_places_windows_uniformly():
    """Positions of a square of side s: uniform in {0, …, 12 − s}; χ² at false alarm 1e-4."""
    images = torch.full((4000, 3, 12, 12), 0.5)
    ids = torch.arange(4000)
    draws = Draws(seed=1, phase=Phase.START, images=ids, queries=ids * 0 + 9)
    attack = Square(eps=0.1, queries=10_000)
    moved = (attack.propose(images, images, 300, draws) != images)[:, 0]
    side = round((0.8 / 8 * 144) ** 0.5)
    assert (moved.sum((1, 2)) == side**2).all()
    top = moved.any(2).float().argmax(1)
    counts = torch.bincount(top, minlength=12 - side + 1)
    assert len(counts) == 12 - side + 1
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_square_l2_spends_all_of_eps():
    images = torch.full((6, 3, 12, 12), 0.5)
    ids = torch.arange(6)
    attack = Square(eps=0.5, norm="l2", queries=100)
    best = images
    for number in range(8):
        draws = Draws(seed=1, phase=Phase.START, images=ids, queries=ids * 0 + number)
        best = attack.propose(images, best, number, draws)
        distance = NORMS["l2"].distance(best - images)
        torch.testing.assert_close(distance, torch.full_like(distance, 0.5), rtol=1e-5, atol=0)


def test_transfer_attacks_the_surrogate():
    images, labels = toy()
    attack = PGD(eps=0.1, steps=3)
    defended = defend(Smoothing(sigma=0.5), seed=2)
    direct = attack(DefendedClassifier(defended.classifier, Identity(), seed=2), images, labels).images
    assert torch.equal(Transfer(attack=attack)(defended, images, labels).images, direct)
    before = defended.classifier.forwards
    other = defend(Identity())
    Transfer(attack=attack, surrogate=other)(defended, images, labels)
    assert defended.classifier.forwards == before
    wide = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), input_size=(12, 12))
    with pytest.raises(InputError, match="must have the classes of the classifier under attack, 2, got 3"):
        Transfer(attack=attack, surrogate=DefendedClassifier(wide, Identity()))(defended, images, labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Square(eps=8), "for 8/255 write 8/255"),
        (lambda: Square(norm="l1"), "square: norm must be linf or l2, got 'l1'"),
        (lambda: Square(p=0.0), r"square: p must be in \(0, 1\]"),
        (lambda: Square(queries=3, samples=5), "budget queries at least samples, got 5 and 3"),
        (lambda: Square(loss="dlrr"), "loss must be one of"),
        (lambda: Square(reading="median"), "reading must be one of mean, vote, got 'median'"),
        (lambda: NES(queries=10), "2·pairs·samples = 50, got 10"),
        (lambda: NES(sigma=0.0), "sigma must be positive"),
        (lambda: NES(eps=-1.0), "eps must be"),
        (lambda: FiniteDifferences(pairs=0), "pairs must be at least 1, got 0"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_square_l2_refuses_tiny_images():
    with pytest.raises(InputError, match="images of at least 10 pixels a side, got 8x8"):
        Square(norm="l2", queries=5)(
            DefendedClassifier(Classifier(Linear(8), input_size=(8, 8)), Identity()),
            torch.rand(1, 3, 8, 8),
            torch.zeros(1, dtype=torch.int64),
        )
