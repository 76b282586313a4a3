"""Contrast: the law of the parameters, straight-through backward, degenerate images, batches."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.histogram import clahe
from cannonade.transforms.contrast import AdaptiveHistogramEqualisation, ContrastStretching, HistogramEqualisation

FALSE_ALARM = 1e-4
KINDS = (HistogramEqualisation, AdaptiveHistogramEqualisation, ContrastStretching)


def params(transform, count, height=17, width=31):
    ids = torch.arange(count)
    draws = Draws(seed=9, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, height, width)))


def is_uniform_integer(values, low, high):
    counts = values.flatten().bincount(minlength=high + 1)
    assert len(counts) == high + 1
    assert counts[:low].sum() == 0
    return stats.chisquare(counts[low:]).pvalue > FALSE_ALARM


def test_laws():
    assert is_uniform_integer(params(HistogramEqualisation(), 10_000)["bins"], 40, 256)
    drawn = params(AdaptiveHistogramEqualisation(), 10_000, 224, 300)
    for name in ("rows", "columns"):
        assert is_uniform_integer(drawn[name][drawn["per_channel"]], 22, 37)
    assert stats.kstest(drawn["clip_limit"][:, 0].double(), stats.uniform(0.01, 0.03).cdf).pvalue > FALSE_ALARM
    assert stats.binomtest(int(drawn["per_channel"].sum()), 10_000, 0.5).pvalue > FALSE_ALARM
    drawn = params(ContrastStretching(), 10_000)
    for name, low in (("low", 0.01), ("high", 0.96)):
        assert stats.kstest(drawn[name][:, 0].double(), stats.uniform(low, 0.03).cdf).pvalue > FALSE_ALARM


def test_shared_with_the_stated_probability():
    for transform, name, share in (
        (ContrastStretching(), "low", 0.5),
        (ContrastStretching(), "high", 0.5),
        (AdaptiveHistogramEqualisation(per_channel=0.3), "clip_limit", 0.7),
        (HistogramEqualisation(shared=0.2), "bins", 0.2 + 0.8 / 217**2),
    ):
        values = params(transform, 10_000)[name]
        same = (values == values[:, :1]).all(1)
        assert stats.binomtest(int(same.sum()), 10_000, share).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("size", "ends"), [((16, 16), (2, 3)), ((32, 32), (3, 5)), ((300, 24), (2, 4))])
def test_tiles_scale_with_the_smaller_side(size, ends):
    rows = params(AdaptiveHistogramEqualisation(), 1000, *size)["rows"]
    assert (rows.min(), rows.max()) == ends


@pytest.mark.parametrize("per_channel", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_images_stay_in_range_with_finite_gradient(kind, per_channel, photos):
    transform = kind(per_channel=per_channel) if kind is AdaptiveHistogramEqualisation else kind()
    images = torch.zeros(7, 3, 24, 31)
    images[1], images[2], images[3] = 1.0, 0.5, 1e-6
    images[4, :, :, 8:] = 1.0
    images[5:] = photos[:2, :, 60:84, 60:91]
    images[5, 1], images[6, 2] = 0.3, 1.0
    images.requires_grad_()
    out = transform.apply(images, params(transform, 7, 24, 31))
    assert ((out >= 0) & (out <= 1)).all()
    torch.testing.assert_close(out[:4], images[:4], rtol=0, atol=1e-7)
    assert torch.autograd.grad(out.square().sum(), images)[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_single_images(kind, photos):
    transform = kind()
    drawn = params(transform, 6, 40, 31)
    images = photos[:6, :, 50:90, 50:81].clone().requires_grad_()
    out = transform.apply(images, drawn)
    gradient = torch.autograd.grad(out.square().sum(), images)[0]
    for row in range(6):
        single = images[row : row + 1].detach().requires_grad_()
        alone = transform.apply(single, {key: value[row : row + 1] for key, value in drawn.items()})
        assert torch.equal(out[row], alone[0])
        own = torch.autograd.grad(alone.square().sum(), single)[0][0]
        torch.testing.assert_close(gradient[row], own, rtol=1e-5, atol=1e-4)  # sums over a plane round differently
    empty = images[:0].detach().requires_grad_()
    assert transform.apply(empty, params(transform, 0)).shape == (0, 3, 40, 31)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_input_and_expanded_gradient(kind, photos):
    transform = kind()
    drawn = params(transform, 4, 17, 31)
    strided = photos[:4, :, 100:117, 100:131].detach().requires_grad_()
    plain = strided.detach().contiguous().requires_grad_()
    out = transform.apply(strided, drawn)
    first = torch.autograd.grad(out.sum(), strided, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(out.sum(), strided)[0], first)
    assert torch.equal(torch.autograd.grad(transform.apply(plain, drawn).sum(), plain)[0], first)
    expanded = plain[:1].detach().expand(4, -1, -1, -1)
    assert torch.equal(transform.apply(expanded, drawn), transform.apply(expanded.contiguous(), drawn))


def test_backward_of_clahe_is_its_slope_and_exact_through_the_value(photos):
    images = photos[:1, :, 50:90, 50:90].double().requires_grad_()
    drawn = params(AdaptiveHistogramEqualisation(per_channel=0.0), 1, 40, 40)
    arguments = [drawn[name][:, 0] for name in ("rows", "columns", "clip_limit")]
    with torch.no_grad():
        value = images.amax(1)
        new, slope = clahe(value, *arguments)
    out = AdaptiveHistogramEqualisation().apply(images, drawn)
    weight = torch.rand(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradient = torch.autograd.grad((out * weight).sum(), images)[0]

    stand_in = images.detach().requires_grad_()
    largest = stand_in.amax(1)
    linear = new + slope * (largest - value)
    expected = (stand_in / largest[:, None] * linear[:, None] * weight).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, stand_in)[0])


def test_same_values_without_gradient(photos):
    transform = AdaptiveHistogramEqualisation()
    images, drawn = photos[:4, :, 50:90, 50:81], params(AdaptiveHistogramEqualisation(), 4, 40, 31)
    assert torch.equal(transform.apply(images, drawn), transform.apply(images.clone().requires_grad_(), drawn))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HistogramEqualisation(bins=(1, 40)), "HistogramEqualisation: bins"),
        (lambda: AdaptiveHistogramEqualisation(side=(0.2, 0.1)), "AdaptiveHistogramEqualisation: side"),
        (lambda: AdaptiveHistogramEqualisation(clip_limit=(0.1, 2.0)), "AdaptiveHistogramEqualisation: clip_limit"),
        (lambda: ContrastStretching(low=(0.1, 0.6), high=(0.5, 0.9)), "ContrastStretching: high"),
    ],
)
def test_wrong_ranges_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
