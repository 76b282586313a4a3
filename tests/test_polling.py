"""Passes: full while there is work, no larger than asked for, counted, and smaller after the memory ran out."""

import pytest
import torch
from torch import nn

from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.polling import place_of, poll, turns
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote


class Watched(nn.Module):
    """Two classes by the sign of the first value less ½; notes the rows of every pass, and fails above `memory` rows."""

    def __init__(self, memory=10_000):
        super().__init__()
        self.memory = memory
        self.passes = []

    def forward(self, images):
        if len(images) > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        self.passes.append(len(images))
        value = images[:, 0, 0, 0] - 0.5
        return torch.stack((-value, value), dim=1)


class Patient:
    """Wants so many predictions of each image, and notes what it got."""

    def __init__(self, wants):
        self.wants = torch.tensor(wants)
        self.got = []

    def wanted(self):
        return (self.wants - torch.bincount(self.rows, minlength=len(self.wants))).clamp(min=0)

    @property
    def rows(self):
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(rows for rows, _ in self.got)])

    def read(self, rows, logits):
        self.got.append((rows, logits))


def watched(memory=10_000, sigma=0.1):
    """A classifier behind noise, and the copy of it that keeps the notes."""
    defended = DefendedClassifier(Watched(memory), Smoothing(sigma=sigma), seed=5)
    classifier = next(module for module in defended.modules() if isinstance(module, Watched))
    classifier.passes.clear()
    return defended, classifier


def photos(count, margin=0.1):
    return torch.full((count, 3, 2, 2), 0.5 + margin)


def test_every_image_gets_what_it_wants_in_the_order_of_its_queries():
    images = photos(4)
    defended, classifier = watched()
    reading = Patient([3, 0, 7, 2])
    forwards, chunk = poll(defended, images, torch.arange(4), 20, reading, phase=Phase.FINAL_VOTE, chunk=5)
    assert (forwards >= reading.wants).all()
    assert chunk == 5
    assert classifier.passes[:2] == [5, 5]
    for image in range(4):
        own = torch.cat([logits[rows == image] for rows, logits in reading.got])
        alone = Patient([0, 0, 0, 0])
        alone.wants[image] = len(own)
        poll(defended, images, torch.arange(4), 20, alone, phase=Phase.FINAL_VOTE, chunk=1)
        assert torch.equal(own, torch.cat([images[:0, 0, 0, :2], *(logits for _, logits in alone.got)]))


def test_nothing_is_asked_in_vain_while_passes_are_full():
    """What was asked for without being wanted is at most half of what an image already had."""
    images = photos(3)
    defended, classifier = watched()
    reading = Patient([8, 8, 8])
    forwards, _ = poll(defended, images, torch.arange(3), 100, reading, phase=Phase.FINAL_VOTE, chunk=12)
    assert classifier.passes == [12, 12]
    assert forwards.tolist() == [8, 8, 8]


@pytest.mark.parametrize("stop", [None, "exact", "sequential"])
def test_the_next_image_takes_the_place_of_a_decided_one(stop):
    """40 images, some of them close calls: passes of 16 rows stay full until the last few images."""
    images = torch.cat([photos(1, margin) for margin in torch.linspace(-0.2, 0.2, 40).tolist()])
    defended, classifier = watched()
    votes = majority_vote(defended, images, 60, stop=stop, chunk=16)
    assert sum(classifier.passes) == int(votes.forwards.sum())
    assert max(classifier.passes) == 16
    short = [rows for rows in classifier.passes if rows < 16]
    assert len(short) <= (1 if stop is None else 0.1 * len(classifier.passes))
    wasted = votes.forwards - votes.used
    assert (wasted * 2 <= votes.used).all()
    assert int(wasted.sum()) <= 0.02 * int(votes.forwards.sum())


@pytest.mark.parametrize("stop", [None, "exact", "sequential"])
def test_retreat_loses_nothing(stop):
    images = torch.cat([photos(1, margin) for margin in (-0.1, 0.01, 0.3)])
    defended, _ = watched()
    whole = majority_vote(defended, images, 50, stop=stop, chunk=24)
    defended, classifier = watched(memory=7)
    votes = majority_vote(defended, images, 50, stop=stop, chunk=24)
    assert votes.chunk == 6
    assert max(classifier.passes) == 6
    assert torch.equal(votes.counts, whole.counts)
    assert sum(classifier.passes) == int(votes.forwards.sum())


def test_places():
    rows = torch.tensor([0, 0, 2, 5, 5, 5])
    assert place_of(rows).tolist() == [0, 1, 0, 0, 1, 2]
    assert [turn.tolist() for turn in turns(rows)] == [[0, 2, 3], [1, 4], [5]]
    assert turns(rows[:0]) == []
