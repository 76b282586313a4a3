"""Random zoom and seam carving expansion: the laws of their parameters, scaling, borders and degenerate images."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.zoom import RandomZoom, SeamCarvingExpansion

FALSE_ALARM = 1e-4


def params(transform, count=30_000, height=256, width=256):
    ids = torch.arange(count)
    draws = Draws(seed=5, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, height, width)))


@pytest.fixture(params=[RandomZoom(), SeamCarvingExpansion()], ids=lambda transform: transform.name)
def transform(request):
    return request.param


def test_margins_are_uniform():
    for margin in params(RandomZoom())["margins"].unbind(1):
        counts = margin.bincount()
        assert counts[:10].sum() == 0
        assert stats.chisquare(counts[10:], [len(margin) / 41] * 41).pvalue > FALSE_ALARM


def test_axes_and_numbers_of_seams():
    drawn = params(SeamCarvingExpansion())
    vertical, horizontal = drawn["vertical"], drawn["horizontal"]
    share = {"both": 0.5, "vertical": 0.5 * 20 / 41, "horizontal": 0.5 * 21 / 41}
    counts = {
        "both": (vertical > 0) & (horizontal > 0),
        "vertical": horizontal == 0,
        "horizontal": vertical == 0,
    }
    observed = [int(counts[name].sum()) for name in share]
    assert stats.chisquare(observed, [30_000 * p for p in share.values()]).pvalue > FALSE_ALARM
    for seams in (vertical, horizontal):
        uniform = seams[seams > 0].bincount()[10:]
        assert len(uniform) == 41
        assert stats.chisquare(uniform).pvalue > FALSE_ALARM


def test_threshold_is_on_the_unscaled_number():
    drawn = params(SeamCarvingExpansion(both=0.0), height=32, width=40)
    share = int((drawn["vertical"] > 0).sum())
    assert stats.binomtest(share, 30_000, 20 / 41).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("side", "low", "high"), [(224, 9, 44), (32, 1, 6), (512, 20, 100)])
def test_ranges_scale_with_the_smaller_side(side, low, high):
    margins = params(RandomZoom(), 10_000, side, side + 9)["margins"]
    assert (margins.min(), margins.max()) == (low, high)
    seams = params(SeamCarvingExpansion(both=1.0), 10_000, side + 9, side)["vertical"]
    assert (seams.min(), seams.max()) == (low, high)


def test_range_as_it_stands_without_reference():
    margins = params(RandomZoom(reference_size=None), height=101, width=2000)["margins"]
    assert (margins.min(), margins.max()) == (10, 50)


def test_images_too_small_say_so():
    with pytest.raises(InputError, match=r"RandomZoom: images of 100x200 pixels .* at least 101"):
        params(RandomZoom(reference_size=None), 1, 100, 200)
    with pytest.raises(InputError, match=r"SeamCarvingExpansion: images of 200x51 pixels .* at least 52"):
        params(SeamCarvingExpansion(reference_size=None), 1, 200, 51)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31)])
def test_degenerate_images(transform, height, width):
    columns = torch.arange(width) < width // 2
    images = torch.stack(
        [torch.full((3, height, width), level) for level in (0.0, 0.5, 1.0)]
        + [columns.expand(3, height, width).float()]
    ).requires_grad_()
    out = transform.apply(images, params(transform, 4, height, width))
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    torch.testing.assert_close(out[:3], images[:3], rtol=0, atol=1e-6)
    assert gradient.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


def test_batch_equals_single_images(transform):
    drawn = params(transform, 3, 40, 25)
    images = torch.rand(3, 3, 40, 25, generator=torch.Generator().manual_seed(1))
    out = transform.apply(images, drawn)
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in drawn.items()}
        assert torch.equal(transform.apply(images[row : row + 1], one), out[row : row + 1])


def test_empty_batch(transform):
    assert transform.apply(torch.rand(0, 3, 17, 31), params(transform, 0, 17, 31)).shape == (0, 3, 17, 31)


def test_gradient(transform):
    drawn = params(transform, 2, 16, 18)
    images = torch.rand(2, 3, 16, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.autograd.gradcheck(lambda x: transform.apply(x, drawn), images.requires_grad_(), fast_mode=True)


def test_rejects_bad_ranges():
    with pytest.raises(InputError, match=r"RandomZoom: margin .* got \(-1, 50\)"):
        RandomZoom(margin=(-1, 50))
    with pytest.raises(InputError, match=r"SeamCarvingExpansion: both is a probability"):
        SeamCarvingExpansion(both=-0.1)
