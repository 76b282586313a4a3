"""BaRT: which transforms, in which order, executed as if image by image."""

from collections import Counter

import pytest
import torch
from scipy import stats

from cannonade.defenses import build_defense
from cannonade.defenses.bart import GROUPS, BaRT, BartGao
from cannonade.defenses.program import schedule
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.pointwise import clip
from cannonade.transforms.noise import Smoothing
from cannonade.transforms.zoom import RandomZoom

SHAPE = torch.Size((4000, 3, 32, 32))


def draws_for(count, seed=0, first=0):
    ids = torch.arange(first, first + count)
    return Draws(seed=seed, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))


def images(count, dtype=torch.float32):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def group_of(bart):
    kinds = {kind: number for number, group in enumerate(GROUPS) for kind in group}
    return [kinds[type(member)] for member in bart.members]


def test_there_are_25_in_10_groups():
    assert len(GROUPS) == 10
    assert len(BaRT().members) == 25
    assert len({type(member) for member in BaRT().members}) == 25


@pytest.mark.parametrize(
    "bart",
    [
        BaRT(k=3),
        BaRT(k=4, random_k=True),
        BartGao(k=2),
        BaRT(k=2, transforms=("swirl", "hsv_shift", "lab_shift", "jpeg_noise")),
    ],
)
def test_probabilities_are_how_often_members_are_drawn(bart):
    steps = bart.sample(draws_for(4000), SHAPE)["steps"]
    for member, probability in enumerate(bart.probabilities):
        seen = int((steps == member).sum())
        assert abs(seen - 4000 * probability) <= 5 * (4000 * probability * (1 - probability)) ** 0.5


def test_choice_and_order_are_uniform():
    """χ² of each position's group (10) and, within group 10, of the member (7), at false alarm 1e-4 each."""
    bart = BaRT(k=5)
    steps = bart._choose(draws_for(4000))
    groups = torch.tensor(group_of(bart))[steps]
    for position in range(5):
        counts = torch.bincount(groups[:, position], minlength=10)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert all(len(set(row)) == 5 for row in groups.tolist())
    ordered = Counter(tuple(row[:2]) for row in groups.tolist())
    assert len(ordered) == 90
    assert stats.chisquare(list(ordered.values())).pvalue > 1e-4
    denoisers = steps[groups == 9]
    assert stats.chisquare(torch.bincount(denoisers - denoisers.min())).pvalue > 1e-4
    neighbours = torch.corrcoef(torch.stack((groups[:-1, 0], groups[1:, 0])).double())[0, 1]
    assert abs(neighbours) < 4 / 4000**0.5


def test_regardless_of_groups():
    steps = BaRT(k=3, groups=False)._choose(draws_for(4000))
    assert stats.chisquare(torch.bincount(steps.flatten(), minlength=25)).pvalue > 1e-4
    assert all(len(set(row)) == 3 for row in steps.tolist())


def test_random_length():
    steps = BaRT(k=4, random_k=True)._choose(draws_for(4000))
    lengths = (steps >= 0).sum(1)
    assert stats.chisquare(torch.bincount(lengths, minlength=5)).pvalue > 1e-4
    assert ((steps >= 0).int().diff(dim=1) <= 0).all()


@pytest.mark.parametrize(
    "bart", [BaRT(k=5), BartGao(k=6, backward="own"), BaRT(k=3, random_k=True)], ids=lambda b: b.name
)
def test_equals_the_programs_one_image_and_one_step_at_a_time(bart):
    """Values and gradients, with no scheduling, no tables and no custom backward."""
    batch = images(12, torch.float64)
    draws = draws_for(12)
    leaf = batch.clone().requires_grad_()
    out = bart(leaf, draws)
    weights = images(12, torch.float64).flip(3)
    (gradient,) = torch.autograd.grad(out, leaf, weights)
    steps = bart._choose(draws)
    for row in range(12):
        one = batch[row : row + 1].clone().requires_grad_()
        value = one
        for stage, step in enumerate(steps[row].tolist()):
            if step >= 0:
                member = bart.members[step]
                streams = draws[torch.tensor([row])].part(stage)
                value = member.transform(value, member.sample(streams, value.shape))
                value = clip(value) if bart.clamp else value
        torch.testing.assert_close(out[row], value[0], rtol=0, atol=1e-6)
        if value is one:
            expected = weights[row : row + 1]
        else:
            (expected,) = torch.autograd.grad(value, one, weights[row : row + 1])
        torch.testing.assert_close(gradient[row], expected[0], rtol=1e-6, atol=1e-6)


def test_checkpoint_gives_the_same_gradient():
    gradients = []
    for checkpoint in (False, True):
        leaf = images(8).requires_grad_()
        out = BaRT(k=4, checkpoint=checkpoint)(leaf, draws_for(8))
        gradients.append(torch.autograd.grad(out.square().sum(), leaf)[0])
    assert torch.equal(*gradients)


def test_schedule_runs_every_step_once_in_order_and_holds_serial_ones_back():
    bart = BaRT(k=5)
    steps = bart._choose(draws_for(32))
    reached = [0] * 32
    launches = Counter()
    for position, rows, own in schedule(steps, bart._serial):
        launches[position] += 1
        for row, stage in zip(rows, (turn.stage for turn in own), strict=True):
            assert reached[row] == stage
            assert steps[row, stage] == position
            reached[row] += 1
    assert reached == [5] * 32
    assert sum(launches.values()) < 32 * 5 / 2
    serial = [position for position, member in enumerate(bart.members) if type(member).__name__ == "NonLocalMeans"]
    assert launches[serial[0]] <= 2


def test_gao_is_the_first_k_of_six_in_random_order():
    names = [type(member).__name__ for member in BartGao().members]
    assert names == [
        "NoiseInjection",
        "GaoGaussianBlur",
        "GaoMedianFilter",
        "Swirl",
        "ColourPrecisionReduction",
        "FftPerturbation",
    ]
    steps = BartGao(k=3)._choose(draws_for(3000))
    orders = Counter(tuple(row) for row in steps.tolist())
    assert len(orders) == 6
    assert all(set(order) == {0, 1, 2} for order in orders)
    assert stats.chisquare(list(orders.values())).pvalue > 1e-4


def test_transforms_of_the_users_choice():
    bart = BaRT(k=2, transforms=("rotation(degrees=10)", RandomZoom(), "hsv_shift", "lab_shift"))
    assert len(bart._groups) == 3
    assert bart(images(4), draws_for(4)).shape == (4, 3, 32, 32)
    assert not BaRT(k=1, transforms=(Smoothing(),), clamp=False).keeps_range


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "k must be 1 to 10, the number of groups, got 0"),
        ({"k": 11}, "k must be 1 to 10, the number of groups, got 11"),
        ({"k": 26, "groups": False}, "k must be 1 to 25, the number of transforms, got 26"),
        ({"transforms": ()}, "at least one transform"),
        ({"transforms": ("swril",)}, "did you mean swirl"),
        ({"k": 2, "transforms": ("hsv_shift", "lab_shift")}, "k must be 1 to 1"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        BaRT(**settings)


def test_gao_refusals():
    with pytest.raises(InputError, match="bart_gao: k must be 1 to 6"):
        BartGao(k=7)


@pytest.mark.parametrize("backward", ["own", "identity"])
def test_gao_backward_is_chosen_by_text(backward):
    defense, image = build_defense(f"bart_gao(k=2, backward={backward!r})"), images(1).requires_grad_()
    (gradient,) = torch.autograd.grad(defense(image, draws_for(1)).sum(), image)
    assert bool((gradient == 1).all()) == (backward == "identity")  # a blur weighs borders otherwise


def test_transform_that_changes_the_size_is_named():
    bart = BaRT(k=1, transforms=("random_resize_pad(low=8, high=16, pad=20)",))
    with pytest.raises(InputError, match="must keep the size of images, random_resize_pad does not"):
        bart(images(2), draws_for(2))
