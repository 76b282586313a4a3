"""Total variation, wavelet and non-local means denoising: parameters, batches, degenerate images."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import Transform
from cannonade.transforms.restoration import NonLocalMeans, TvChambolle, WaveletDenoising

FALSE_ALARM = 1e-4
TRANSFORMS = [TvChambolle(), WaveletDenoising(), NonLocalMeans(), NonLocalMeans(constant_weights=True)]
each = pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)


def draws(count: int, seed: int = 0) -> Draws:
    ids = torch.arange(count)
    return Draws(seed=seed, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))


def degenerate() -> torch.Tensor:
    """Black, white, grey, two-tone, and noise with one constant channel."""
    generator = torch.Generator().manual_seed(0)
    flat = [torch.full((3, 18, 23), value) for value in (0.0, 1.0, 0.5, 0.3)]
    two_tone = torch.zeros(3, 18, 23)
    two_tone[:, :, 11:] = 1.0
    noise = torch.rand(3, 18, 23, generator=generator)
    noise[1] = 0.7
    return torch.stack((*flat, two_tone, noise))


def check_uniform(values: torch.Tensor, low: float, high: float) -> None:
    assert values.min() >= low
    assert values.max() <= high
    assert stats.kstest((values.numpy() - low) / (high - low), "uniform").pvalue > FALSE_ALARM


def check_equal_shares(values: torch.Tensor, options: list[int]) -> None:
    counts = [int((values == option).sum()) for option in options]
    assert sum(counts) == len(values)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_parameters():
    count, shape = 20000, torch.Size((20000, 3, 224, 224))
    tv = TvChambolle().sample(draws(count), shape)
    check_uniform(tv["weight"], 0.05, 0.25)
    check_equal_shares(tv["per_channel"], [0, 1])
    wavelet = WaveletDenoising().sample(draws(count), shape)
    check_equal_shares(wavelet["wavelet"], [0, 1, 2, 3])
    for name in ("ycbcr", "soft", "shifts"):
        check_equal_shares(wavelet[name], [0, 1])
    means = NonLocalMeans().sample(draws(count), shape)
    check_uniform(means["strength"], 0.6, 1.15)
    check_equal_shares(means["together"], [0, 1])
    check_equal_shares(means["patch_size"], [5, 6, 7])
    check_equal_shares(means["patch_distance"], list(range(6, 12)))


@each
def test_batch_is_its_images(transform: Transform, photos):
    images = photos[:6, :, 100:117, 80:111]
    params = transform.sample(draws(6, seed=3), images.shape)
    x = images.clone().requires_grad_()
    out = transform.transform(x, params)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    for row in range(6):
        single = images[row : row + 1].clone().requires_grad_()
        own = transform.transform(single, {key: value[row : row + 1] for key, value in params.items()})
        torch.testing.assert_close(own[0], out[row], rtol=0, atol=1e-6)
        (other,) = torch.autograd.grad(own.square().sum(), single)
        torch.testing.assert_close(other[0], gradient[row], rtol=1e-5, atol=1e-5)


@each
def test_degenerate_images(transform: Transform):
    images = degenerate()
    for seed in range(8):
        x = images.clone().requires_grad_()
        out = transform(x, draws(len(images), seed))
        assert out.isfinite().all()
        assert 0 <= out.min() <= out.max() <= 1
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        assert gradient.isfinite().all()
        torch.testing.assert_close(out[:4], images[:4], rtol=0, atol=1e-6)


@each
def test_empty_and_strided(transform: Transform, photos):
    empty = torch.zeros(0, 3, 20, 20)
    assert transform(empty, draws(0)).shape == empty.shape
    strided = photos[:2, :, 64:128:2, 64:160:3]
    expanded = strided[:1].expand(2, -1, -1, -1)
    for images in (strided, expanded):
        copy = transform(images.contiguous(), draws(2))
        assert torch.equal(transform(images, draws(2)), copy)


def test_one_constant_channel_leaves_the_others_to_be_denoised():
    images = degenerate()[5:]
    wavelet = {"ycbcr": [False], "wavelet": [1], "soft": [True], "shifts": [0]}
    means = {"strength": [1.0], "together": [False], "patch_size": [5], "patch_distance": [6]}
    for transform, values in ((WaveletDenoising(), wavelet), (NonLocalMeans(), means)):
        out = transform.transform(images, {key: torch.tensor(value) for key, value in values.items()})
        torch.testing.assert_close(out[:, 1], images[:, 1], rtol=0, atol=1e-6)
        assert (out - images)[:, [0, 2]].abs().mean() > 0.01


def test_messages():
    with pytest.raises(InputError, match=r"TvChambolle: weight must be"):
        TvChambolle(weight=(0.3, 0.1))
    with pytest.raises(InputError, match=r"TvChambolle: tolerance must be"):
        TvChambolle(tolerance=-1.0)
    with pytest.raises(InputError, match=r"TvChambolle: max_iterations must be"):
        TvChambolle(max_iterations=0)
    with pytest.raises(InputError, match=r"WaveletDenoising: wavelets must be one or more of haar, db1, db2, sym9"):
        WaveletDenoising(wavelets=("db4",))
    with pytest.raises(InputError, match=r"NonLocalMeans: patch_size must be"):
        NonLocalMeans(patch_size=(1, 5))
    with pytest.raises(InputError, match=r"NonLocalMeans: images must be at least 15 pixels .* got 14×40"):
        NonLocalMeans()(torch.zeros(1, 3, 14, 40), draws(1))
