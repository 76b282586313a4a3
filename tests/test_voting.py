"""Majority votes: counts, ties, independence of the chunking, and what is refused."""

import pytest
import torch
from torch import nn

from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
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
    assert votes.labels.shape == (0,)


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
