"""Majority votes: counts, ties, independence of the chunking, and what is refused."""

import pytest
import torch
from torch import nn

from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

IMAGES = torch.linspace(0.3, 0.7, 5)[:, None, None, None].expand(5, 3, 4, 4).clone()


class Brightness(nn.Module):
    """Three classes by the mean: below .45, between, above .55."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack((0.45 - mean, 0.05 - (mean - 0.5).abs(), mean - 0.55), dim=1)


class Cracked(Brightness):
    """NaN for images without contrast."""

    def forward(self, images):
        flat = images.flatten(1).std(1) < 1e-6
        return super().forward(images).masked_fill(flat[:, None], torch.nan)


def test_deterministic_classifier_is_unanimous():
    votes = majority_vote(DefendedClassifier(Brightness(), Identity()), IMAGES, 7)
    assert votes.counts.sum(1).tolist() == [7] * 5
    assert votes.counts.amax(1).tolist() == [7] * 5
    assert votes.labels.tolist() == [0, 0, 1, 2, 2]


def test_counts_follow_the_law():
    """P[label 0] of one value under noise is Φ; a binomial test at 4.5 standard deviations, false alarm 7e-6."""
    n, sigma = 4000, 0.2
    defended = DefendedClassifier(Brightness(), Smoothing(sigma=sigma), seed=3)
    image = torch.full((1, 3, 1, 1), 0.45)
    share = majority_vote(defended, image, n).counts[0, 0] / n
    assert abs(share - 0.5) < 4.5 * (0.25 / n) ** 0.5


@pytest.mark.parametrize("chunk", [1, 3, 16, 1000])
def test_chunk_does_not_change_the_draws(chunk):
    defended = DefendedClassifier(Brightness(), Smoothing(sigma=0.3), seed=1)
    whole = majority_vote(defended, IMAGES, 9, chunk=45)
    assert torch.equal(majority_vote(defended, IMAGES, 9, chunk=chunk).counts, whole.counts)
    alone = majority_vote(defended, IMAGES[2:3], 9, ids=torch.tensor([2]))
    assert torch.equal(alone.counts[0], whole.counts[2])


def test_phases_vote_independently():
    defended = DefendedClassifier(Brightness(), Smoothing(sigma=0.5), seed=1)
    benign, final = (
        majority_vote(defended, IMAGES, 50, phase=phase) for phase in (Phase.BENIGN_VOTE, Phase.FINAL_VOTE)
    )
    assert not torch.equal(benign.counts, final.counts)


def test_ties_go_to_the_smaller_label():
    class Alternating(nn.Module):
        def forward(self, images):
            labels = torch.arange(len(images)) % 2 + 1
            return nn.functional.one_hot(labels, 4).float()

    votes = majority_vote(DefendedClassifier(Alternating(), Identity()), IMAGES[:1], 10, chunk=10)
    assert votes.counts[0].tolist() == [0, 5, 5, 0]
    assert votes.labels.tolist() == [1]


def test_empty_batch():
    votes = majority_vote(DefendedClassifier(Brightness(), Identity()), IMAGES[:0], 5)
    assert votes.counts.shape == (0, 3)
    assert votes.labels.shape == votes.forwards.shape == votes.used.shape == (0,)
    for stop in ("exact", "sequential"):
        assert majority_vote(DefendedClassifier(Brightness(), Identity()), IMAGES[:0], 5, stop=stop).labels.shape == (
            0,
        )
    means = majority_vote(DefendedClassifier(Brightness(), Identity()), IMAGES[:0], 5, reading="mean_probs").means
    assert means.shape == (0, 3)


@pytest.fixture
def wavering():
    """Noise that moves the dark and the bright image over the border now and then, and the grey one often."""
    return DefendedClassifier(Brightness(), Smoothing(sigma=0.5), seed=4)


@pytest.mark.parametrize("stop", ["exact", "sequential"])
@pytest.mark.parametrize("chunk", [1, 7, 64, "auto"])
def test_stopped_vote(wavering, stop, chunk):
    """The label of all n votes from fewer of them; which ones depends neither on the chunk nor on the other images."""
    full = majority_vote(wavering, IMAGES, 400)
    votes = majority_vote(wavering, IMAGES, 400, stop=stop, chunk=chunk)
    assert torch.equal(votes.labels, full.labels)
    assert (votes.used < 400).all()
    assert (votes.forwards >= votes.used).all()
    assert (votes.counts <= full.counts).all()
    alone = majority_vote(wavering, IMAGES[1:2], 400, stop=stop, ids=torch.tensor([1]), chunk=13)
    assert torch.equal(alone.counts[0], votes.counts[1])
    for row in range(5):  # the votes used are the first ones
        prefix = majority_vote(wavering, IMAGES[row : row + 1], int(votes.used[row]), ids=torch.tensor([row]))
        assert torch.equal(prefix.counts[0], votes.counts[row])


def test_sequential_stops_sooner_the_clearer_it_is(wavering):
    exact, loose, strict = (
        majority_vote(wavering, IMAGES, 400, stop=stop, alpha=alpha).used
        for stop, alpha in (("exact", 0.5), ("sequential", 0.01), ("sequential", 1e-6))
    )
    assert (loose <= strict).all()
    assert (strict <= exact).all()
    assert loose[0] < loose[2]


def test_stopping_a_unanimous_vote():
    """13 unanimous votes multiply the gambler's money by more than 1,000; exactly, it takes 251 of 500."""
    defended = DefendedClassifier(Brightness(), Identity())
    assert majority_vote(defended, IMAGES, 500, stop="sequential", chunk=8).used.unique().tolist() == [13]
    exact = majority_vote(defended, IMAGES, 500, stop="exact", chunk=8)
    assert exact.used.tolist() == [250, 250, 251, 251, 251]
    assert torch.equal(exact.forwards[:4], exact.used[:4])  # the last one had the last pass to itself


def test_readings(wavering):
    n = 30
    every = {reading: majority_vote(wavering, IMAGES, n, reading=reading) for reading in RULES}
    counts = every["majority"].counts
    assert all(torch.equal(votes.counts, counts) for votes in every.values())
    unanimous = counts.amax(1) == n
    assert torch.equal(every["all"].labels, torch.where(unanimous, counts.argmax(1), -1))
    for label in range(3):
        classes = torch.full((5,), label)
        assert torch.equal(every["all"].holds(classes), counts[:, label] == n)
        assert torch.equal(every["any"].holds(classes), counts[:, label] > 0)
        for reading in ("majority", "mean_probs", "mean_logits"):
            assert torch.equal(every[reading].holds(classes), every[reading].labels == label)
    assert every["majority"].means is None


RULES = ("majority", "all", "any", "mean_probs", "mean_logits")


@pytest.mark.parametrize("reading", ["mean_probs", "mean_logits"])
def test_means(wavering, reading):
    n = 12
    ids = torch.arange(5)
    sums = torch.zeros(5, 3, dtype=torch.float64)
    for query in range(n):
        draws = Draws(seed=4, phase=Phase.FINAL_VOTE, images=ids, queries=torch.full_like(ids, query))
        logits = wavering.logits(IMAGES, draws).double()
        sums += logits.softmax(1) if reading == "mean_probs" else logits
    votes = majority_vote(wavering, IMAGES, n, reading=reading, chunk=60)
    torch.testing.assert_close(votes.means, sums / n, rtol=0, atol=1e-12)
    assert torch.equal(votes.labels, sums.argmax(1))
    for chunk in (1, 8):
        assert torch.equal(majority_vote(wavering, IMAGES, n, reading=reading, chunk=chunk).means, votes.means)


def test_mean_and_majority_can_disagree():
    class Lopsided(nn.Module):
        """Class 1 by a hair two times in three, else class 0 by far."""

        def forward(self, images):
            votes = torch.arange(len(images)) % 3
            return torch.where((votes == 2)[:, None], torch.tensor([9.0, 0.0]), torch.tensor([0.0, 0.1]))

    defended = DefendedClassifier(Lopsided(), Identity())
    labels = {
        reading: int(majority_vote(defended, IMAGES[:1], 9, reading=reading, chunk=9).labels) for reading in RULES
    }
    assert labels == {"majority": 1, "all": -1, "any": 1, "mean_probs": 0, "mean_logits": 0}


@pytest.mark.parametrize("stop", ["exact", "sequential"])
def test_all_stops_at_the_second_label(wavering, stop):
    full = majority_vote(wavering, IMAGES, 100, reading="all")
    votes = majority_vote(wavering, IMAGES, 100, reading="all", stop=stop, chunk=5)
    assert torch.equal(votes.labels, full.labels)
    split = votes.labels == -1
    assert split.any()
    assert (votes.counts[split] > 0).sum(1).unique().tolist() == [2]
    assert (votes.counts[split].amin(1) == 0).all()
    still = majority_vote(DefendedClassifier(Brightness(), Identity()), IMAGES, 20, reading="all", stop=stop)
    assert still.labels.tolist() == [0, 0, 1, 2, 2]
    assert still.used.tolist() == [20] * 5


def test_refused_choices():
    defended = DefendedClassifier(Brightness(), Identity())
    for arguments, words in (
        ({"stop": "early"}, "stop must be None, 'exact' or 'sequential', got 'early'"),
        ({"stop": "sequential", "alpha": 0.0}, "for no error at all use stop='exact'"),
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\)"),
        ({"reading": "median"}, "reading must be one of majority, all, any"),
        ({"reading": "mean_probs", "stop": "sequential"}, "mean_probs needs all n predictions"),
        ({"reading": "any", "stop": "exact"}, "any needs all n predictions"),
    ):
        with pytest.raises(InputError, match=words):
            majority_vote(defended, IMAGES, 3, **arguments)


def test_refusals():
    defended = DefendedClassifier(Brightness(), Identity())
    with pytest.raises(InputError, match="votes must be at least 1, got 0"):
        majority_vote(defended, IMAGES, 0)
    with pytest.raises(InputError, match=r"images must be in \[0, 1\].*divide 8-bit images by 255"):
        majority_vote(defended, IMAGES * 255, 1)
    with pytest.raises(InputError, match="without NaN"):
        majority_vote(defended, IMAGES * torch.nan, 1)
    with pytest.raises(InputError, match="move the channels first"):
        majority_vote(defended, IMAGES.permute(0, 2, 3, 1), 1)
    with pytest.raises(InputError, match="floating point"):
        majority_vote(defended, (IMAGES * 255).byte(), 1)
    broken = DefendedClassifier(Cracked(), Identity())
    with pytest.raises(InputError, match=r"finite logits, got NaN or infinity for image 4"):
        majority_vote(broken, IMAGES[:1], 2, ids=torch.tensor([4]))


def test_wrong_number_of_rows_is_named():
    class Forgetful(Brightness):
        def forward(self, images):
            return super().forward(images)[:2]

    with pytest.raises(InputError, match="one row of logits per image"):
        majority_vote(DefendedClassifier(Forgetful(), Identity()), IMAGES, 2)
