"""Swirl: the law of its parameters and how their ranges scale."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.swirl import Swirl

FALSE_ALARM = 1e-4


def params(transform, count=30_000, height=256, width=256):
    ids = torch.arange(count)
    draws = Draws(seed=4, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, height, width)))


def test_parameters_are_uniform():
    drawn = params(Swirl())
    assert stats.kstest(drawn["strength"].double(), stats.uniform(0.01, 1.99).cdf).pvalue > FALSE_ALARM
    for name, low, high in (("radius", 10, 200), ("x", 1, 256), ("y", 1, 256)):
        counts = drawn[name].bincount()
        assert counts.nonzero()[0] == low
        assert len(counts) == high + 1
        assert stats.chisquare(counts[low:]).pvalue > FALSE_ALARM


def test_parameters_are_independent():
    drawn = torch.stack([value.double() for value in params(Swirl()).values()])
    for i in range(4):
        for j in range(i):
            assert stats.pearsonr(drawn[i], drawn[j]).pvalue > FALSE_ALARM / 6


@pytest.mark.parametrize(
    ("transform", "height", "width", "radius", "x", "y"),
    [
        (Swirl(), 224, 448, (9, 175), (2, 448), (1, 224)),
        (Swirl(), 32, 32, (3, 25), (1, 32), (1, 32)),
        (Swirl(reference_size=None), 32, 32, (10, 200), (1, 256), (1, 256)),
    ],
)
def test_ranges_scale_with_the_image(transform, height, width, radius, x, y):
    drawn = params(transform, 20_000, height, width)
    for name, ends in (("radius", radius), ("x", x), ("y", y)):
        assert (drawn[name].min(), drawn[name].max()) == ends


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_images_stay_constant(level):
    images = torch.full((4, 3, 17, 31), level, requires_grad=True)
    out = Swirl().apply(images, params(Swirl(), 4, 17, 31))
    torch.testing.assert_close(out, images, rtol=0, atol=1e-6)
    assert torch.autograd.grad(out.sum(), images)[0].isfinite().all()


def test_batch_equals_single_images():
    drawn = params(Swirl(), 3, 40, 25)
    images = torch.rand(3, 3, 40, 25, generator=torch.Generator().manual_seed(1))
    out = Swirl().apply(images, drawn)
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in drawn.items()}
        assert torch.equal(Swirl().apply(images[row : row + 1], one), out[row : row + 1])


def test_empty_batch():
    assert Swirl().apply(torch.rand(0, 3, 17, 31), params(Swirl(), 0, 17, 31)).shape == (0, 3, 17, 31)


def test_rejects_bad_ranges():
    with pytest.raises(InputError, match=r"Swirl: radius must be \(low, high\)"):
        Swirl(radius=(20, 10))
    with pytest.raises(InputError, match="Swirl: reference_size must be at least 1, or None"):
        Swirl(reference_size=0)
