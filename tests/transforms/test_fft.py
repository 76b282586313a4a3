"""FFT perturbation: the laws of its parameters, black channels, and noise that is not stored."""

import pytest
import torch
from scipy.stats import kstest

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.fft import FftPerturbation


def draws(count):
    return Draws(seed=0, phase=Phase.ATTACK, images=torch.arange(count), queries=torch.zeros(count, dtype=torch.int64))


def test_keep_is_uniform_and_independent_per_channel():
    keep = FftPerturbation().sample(draws(20_000), torch.Size((20_000, 3, 16, 16)))["keep"]
    for channel in keep.T:
        assert kstest(channel.numpy() / 0.95, "uniform").pvalue > 1e-4
    assert torch.corrcoef(keep.T).fill_diagonal_(0).abs().max() < 4 / 20_000**0.5


def test_parameters_are_small():
    params = FftPerturbation().sample(draws(4), torch.Size((4, 3, 224, 224)))
    assert all(value[0].numel() <= 5 for value in params.values())


def test_factors_are_shared_by_channels_and_differ_between_images():
    x = torch.rand(1, 1, 17, 31, generator=torch.Generator().manual_seed(0)).expand(2, 3, -1, -1)
    out = FftPerturbation(keep=(0.5, 0.5))(x * 0.5 + 0.25, draws(2))
    torch.testing.assert_close(out[:, :1].expand_as(out), out)
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_published_ranges_are_reached():
    """A constant image shows the factor of frequency zero alone."""
    out = FftPerturbation(keep=(0.5, 0.5))(torch.full((2000, 3, 16, 16), 0.5), draws(2000))[:, 0, 0, 0] / 0.5
    assert kstest((out.double().numpy() - 0.98) / 0.04, "uniform").pvalue > 1e-4


def test_keep_zero_is_black_as_published():
    x = torch.rand(2, 3, 17, 31, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = FftPerturbation(keep=(0.0, 0.0))(x, draws(2))
    assert out.abs().max() == 0
    assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images(value):
    x = torch.full((4, 3, 17, 31), value, requires_grad=True)
    out = FftPerturbation()(x, draws(4))
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()


def test_gradient():
    x = torch.rand(2, 3, 16, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    transform = FftPerturbation(keep=(0.3, 0.9))
    params = transform.sample(draws(2), x.shape)
    assert torch.autograd.gradcheck(lambda x: transform.apply(x, params), x.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"keep": (0.5, 0.2)}, "fft_perturbation: keep"), ({"factor": (1.1, 0.9)}, "fft_perturbation: factor")],
)
def test_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        FftPerturbation(**arguments)
