"""Order, shards and augmentation: pure functions of seed, epoch and id."""

from itertools import chain

import pytest
import torch

from cannonade.data.views import Augmentation, Feed
from cannonade.errors import InputError

SIZE = (16, 16)


def test_every_image_comes_once_whatever_the_batch():
    for batch in (1, 7, 23, 50):
        feed = Feed(size=SIZE, batch=batch, shuffle=True)
        batches = feed.batches(23)
        assert [len(each) for each in batches[:-1]] == [batch] * (len(batches) - 1)
        assert [*chain.from_iterable(batches)] == Feed(size=SIZE, batch=5, shuffle=True).share(23)
        assert sorted([*chain.from_iterable(batches)]) == list(range(23))


def test_orders_differ_by_epoch_and_seed_and_continue_anywhere():
    orders = {
        tuple(Feed(size=SIZE, batch=4, shuffle=True, epoch=epoch, seed=seed).share(30))
        for epoch in range(3)
        for seed in range(2)
    }
    assert len(orders) == 6
    whole = Feed(size=SIZE, batch=4, shuffle=True, epoch=1).share(30)
    assert [*chain.from_iterable(Feed(size=SIZE, batch=4, shuffle=True, epoch=1, start=9).batches(30))] == whole[9:]


def test_ranks_share_an_evaluation_without_overlap():
    shares = [Feed(size=SIZE, batch=4, rank=rank, world=3).share(11) for rank in range(3)]
    assert sorted([*chain.from_iterable(shares)]) == list(range(11))


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_take_equal_counts_in_training_and_others_rest_each_epoch(shuffle):
    resting = set()
    for epoch in range(11):
        shares = [
            Feed(size=SIZE, batch=4, rank=rank, world=3, even=True, epoch=epoch, shuffle=shuffle).share(11)
            for rank in range(3)
        ]
        assert [len(share) for share in shares] == [3] * 3
        taken = [*chain.from_iterable(shares)]
        assert len(set(taken)) == 9
        resting |= set(range(11)) - set(taken)
    assert len(resting) >= 9, "the remainder rotates"


def test_parts_lie_inside_and_have_the_law_asked_for():
    augmentation = Augmentation(scale=(0.3, 0.9), ratio=(0.5, 2.0), mirror=0.25)
    ids = torch.arange(4000)
    sides = torch.tensor([[300, 200]]).expand(4000, 2)
    boxes, mirrored = augmentation.draw(Feed(size=SIZE, batch=1).draws(ids), sides)
    top, left, height, width = boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 200).all()
    share = (height * width).double() / 60_000
    assert share.max() <= 0.92
    assert share.min() >= 0.25  # cut where a wide part does not fit
    assert abs(float(mirrored.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    again, _ = augmentation.draw(Feed(size=SIZE, batch=9).draws(ids[17:18]), sides[17:18])
    assert torch.equal(again[0], boxes[17])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Feed(size=SIZE, batch=0), "batch must be at least 1"),
        (lambda: Feed(size=SIZE, batch=1, rank=2, world=2), "rank must be in 0 … 1"),
        (lambda: Augmentation(scale=(0.0, 1.0)), "scale must be"),
        (lambda: Augmentation(ratio=(2.0, 1.0)), "ratio must be"),
        (lambda: Augmentation(mirror=2.0), "mirror must be"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(InputError, match=words):
        make()
