"""Certificates: Cohen's values, coverage of the whole procedure, the sequential form, and what is refused."""

from statistics import NormalDist

import pytest
import torch
from torch import nn

from cannonade.certification import ABSTAIN, certified_radius, certify
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.proportions import clopper_pearson_lower
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

SIGMA = 0.25


class Sign(nn.Module):
    """Class 1 where the first value is over ½: behind noise, its distance from ½ is the true radius of x."""

    def forward(self, images):
        value = images[:, 0, 0, 0] - 0.5
        return torch.stack((-value, value, torch.full_like(value, -9)), dim=1)


def defended(seed=0, sigma=SIGMA):
    return DefendedClassifier(Sign(), Smoothing(sigma=sigma), seed=seed)


def at(*distances):
    return (0.5 + torch.tensor(distances))[:, None, None, None].expand(-1, 3, 1, 1).clone()


def too_often(errors, alpha):
    """False alarm 1e-4, if the error has probability alpha."""
    return float(errors.double().sum()) > alpha * len(errors) + 3.72 * (len(errors) * alpha * (1 - alpha)) ** 0.5


def test_values_of_cohen():
    p = clopper_pearson_lower(99_000, 100_000, 1e-3)
    assert p == pytest.approx(0.98898934, abs=5e-9)
    assert certified_radius(p, 0.25) == pytest.approx(0.57250, abs=5e-6)
    p = clopper_pearson_lower(60_000, 100_000, 1e-3)
    assert p == pytest.approx(0.59520105, abs=5e-9)
    assert certified_radius(p, 0.25) == pytest.approx(0.060236, abs=5e-7)
    assert certified_radius(clopper_pearson_lower(50, 100, 1e-3), 0.25) == 0


def test_fixed_number():
    found = certify(defended(), at(0.2, -0.3, 0.0, 0.0005), n0=20, n=400, alpha=0.01)
    assert found.labels.tolist() == [1, 0, ABSTAIN, ABSTAIN]
    assert found.used.tolist() == [400] * 4
    assert found.forwards.tolist() == [420] * 4
    for row in range(4):
        p = clopper_pearson_lower(int(found.hits[row]), 400, 0.01)
        assert float(found.radius[row]) == pytest.approx(certified_radius(p, SIGMA))
    assert (found.radius[:2] > 0).all()
    assert (found.anytime_radius <= found.radius).all()
    assert (found.radius[:2] - found.anytime_radius[:2] < 0.03).all()
    assert (found.radius[:2] < torch.tensor([0.2, 0.3])).all()


@pytest.mark.parametrize("distance", [0.0, 0.1])
def test_coverage(distance):
    """10,000 certificates: a class with a radius beyond its true one, or the wrong class, at most in a share of alpha."""
    alpha, images = 0.05, at(distance).expand(10_000, -1, -1, -1)
    found = certify(defended(seed=1), images, n0=9, n=60, alpha=alpha, chunk=50_000)
    wrong = torch.where(found.labels == 0, True, found.radius > distance)
    assert not too_often(wrong & (found.labels != ABSTAIN), alpha)
    # The same predictions for choosing and for counting: at the border every certificate is wrong, and twice as many are made.
    hits = torch.where(found.selected == 1, found.hits, 60 - found.hits)
    larger = hits.maximum(60 - hits)
    bound = torch.tensor([clopper_pearson_lower(count, 60, alpha) for count in range(61)])
    if distance == 0:
        assert too_often(bound[larger] > 0.5, alpha)


@pytest.mark.parametrize("distance", [0.0, 0.1])
def test_coverage_of_the_sequential_form(distance):
    """Asked for just the true radius, where a certificate is right only by definition: at most a share of alpha gets it."""
    alpha, images = 0.05, at(distance).expand(10_000, -1, -1, -1)
    found = certify(defended(seed=2), images, n0=9, n=60, alpha=alpha, radius=distance, chunk=50_000)
    assert not too_often(found.labels != ABSTAIN, alpha)
    assert (found.labels != ABSTAIN).double().mean() > alpha / 20
    assert (found.used < 60).any()


def test_sequential_form_stops_early():
    """Far above the radius asked for, far below it, and close to it."""
    images = at(0.5, 0.02, 0.21, -0.5)
    found = certify(defended(), images, n0=10, n=20_000, radius=0.2, chunk=500)
    assert found.labels.tolist()[:2] == [1, ABSTAIN]
    assert found.labels[3] == 0
    assert found.radius.tolist()[:2] == [0.2, 0.0]
    assert found.used[0] < 300
    assert found.used[1] < 300
    assert found.used[2] > 2000
    assert (found.forwards - 10 <= 1.5 * found.used + 1).all()
    assert torch.equal(found.radius, found.anytime_radius)


def test_hopeless_is_given_up_before_n():
    """Half the predictions agree where more than .84 must: long before n not even the rest could make it."""
    found = certify(defended(), at(0.0), n0=5, n=100, radius=SIGMA, alpha=1e-6)
    assert found.labels.tolist() == [ABSTAIN]
    assert int(found.used[0]) < 60


@pytest.mark.parametrize("radius", [None, 0.1])
def test_chunk_and_company_change_nothing(radius):
    images = at(0.15, -0.1, 0.3)
    whole = certify(defended(), images, n0=10, n=200, radius=radius, chunk=1000)
    for chunk in (1, 7):
        again = certify(defended(), images, n0=10, n=200, radius=radius, chunk=chunk)
        for name in ("labels", "radius", "hits", "used"):
            assert torch.equal(getattr(again, name), getattr(whole, name))
    alone = certify(defended(), images[1:2], n0=10, n=200, radius=radius, ids=torch.tensor([1]))
    assert alone.hits.tolist() == [int(whole.hits[1])]
    assert alone.used.tolist() == [int(whole.used[1])]


def test_choice_and_estimate_share_no_draws(monkeypatch):
    asked = []
    original = DefendedClassifier.logits

    def watch(self, images, draws):
        asked.append((draws.phase, len(images)))
        return original(self, images, draws)

    monkeypatch.setattr(DefendedClassifier, "logits", watch)
    certify(defended(), at(0.2, 0.1), n0=10, n=30, chunk=100)
    assert asked == [(Phase.CERTIFY_SELECT, 20), (Phase.CERTIFY_ESTIMATE, 60)]


def test_radius_zero_asks_for_a_majority():
    found = certify(defended(), at(0.3), n0=10, n=200, radius=0.0)
    assert found.labels.tolist() == [1]
    assert found.radius.tolist() == [0.0]


@pytest.mark.parametrize("radius", [None, 0.1])
def test_empty_batch(radius):
    found = certify(defended(), at(0.1)[:0], n0=5, n=200, radius=radius)
    assert found.labels.shape == found.radius.shape == found.used.shape == found.forwards.shape == (0,)


def test_refusals():
    image = at(0.1)
    for arguments, words in (
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"alpha": 0.0}, r"alpha must be in \(0, 1\)"),
        ({"radius": -0.1}, "radius must be at least 0, in pixel units"),
        ({"radius": 1.0, "n": 100}, "n=100 predictions can prove.*raise n"),
        ({"radius": 50.0, "n": 100}, "n=100 predictions can prove"),
    ):
        with pytest.raises(InputError, match=words):
            certify(defended(), image, **arguments)
    for defense in (Identity(), Smoothing(sigma=0.0)):
        with pytest.raises(InputError, match="need the defense smoothing"):
            certify(DefendedClassifier(Sign(), defense), image)
    with pytest.raises(InputError, match=r"images must be in \[0, 1\]"):
        certify(defended(), image * 255)


def test_radius_of_certainty_is_finite():
    assert certified_radius(1.0, 1.0) == pytest.approx(NormalDist().inv_cdf(1 - 2**-53))
