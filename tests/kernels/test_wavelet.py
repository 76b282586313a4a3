"""The wavelet transform and the estimate of noise, against PyWavelets and scikit-image."""

import numpy as np
import pytest
import pywt
import torch
from skimage.restoration import estimate_sigma as oracle_sigma

from cannonade.kernels.wavelet import (
    LOW_PASS,
    decompose,
    decompose_adjoint,
    estimate_sigma,
    high_pass,
    levels,
    reconstruct,
    reconstruct_adjoint,
)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", LOW_PASS)
def test_filters_are_those_of_pywavelets(name):
    wavelet = pywt.Wavelet(name)
    assert LOW_PASS[name] == tuple(wavelet.dec_lo)
    assert high_pass(LOW_PASS[name]) == tuple(wavelet.dec_hi)


@pytest.mark.parametrize("name", LOW_PASS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (224, 224), (512, 300), (1023, 1025)])
def test_levels_are_those_of_scikit_image(name, height, width):
    assert levels(height, width, len(LOW_PASS[name])) == max(pywt.dwtn_max_level((height, width), name) - 3, 1)


@pytest.mark.parametrize("name", ["haar", "db2", "sym9"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (96, 75), (160, 161)])
@pytest.mark.filterwarnings("ignore:Level value")
def test_decomposition_and_reconstruction(name, height, width):
    low = LOW_PASS[name]
    x = randn(2, height, width)
    pyramid = decompose(x, low)
    theirs = pywt.wavedecn(x[1].numpy(), name, level=levels(height, width, len(low)))
    assert np.allclose(pyramid.approximation[1], theirs[0], rtol=0, atol=1e-12)
    for ours, level in zip(pyramid.levels, reversed(theirs[1:]), strict=True):
        for band, key in zip(ours[:, 1], ("ad", "da", "dd"), strict=True):
            assert np.allclose(band.T, level[key], rtol=0, atol=1e-12)
    torch.testing.assert_close(reconstruct(pyramid, low), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["haar", "db2", "sym9"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (160, 161)])
def test_adjoints(name, height, width):
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩ for the decomposition and the reconstruction."""
    low = LOW_PASS[name]
    x, g = randn(1, height, width), randn(1, height, width, seed=1)
    pyramid, other = decompose(x, low), decompose(g, low)
    other.approximation.normal_(generator=torch.Generator().manual_seed(2))

    def inner(a, b):
        pairs = zip((a.approximation, *a.levels), (b.approximation, *b.levels), strict=True)
        return sum(torch.sum(p * q) for p, q in pairs)

    torch.testing.assert_close(inner(pyramid, other), torch.sum(x * decompose_adjoint(other, low)))
    adjoint = reconstruct_adjoint(g, low, len(other.levels))
    torch.testing.assert_close(torch.sum(reconstruct(other, low) * g), inner(other, adjoint))


def test_sigma_is_that_of_scikit_image(photos):
    planes = photos[:, :, 100:200, 50:165].flatten(0, 1)
    theirs = [oracle_sigma(plane.double().numpy()) for plane in planes]
    np.testing.assert_allclose(estimate_sigma(planes).numpy(), theirs, rtol=1e-12)


def test_sigma_where_most_coefficients_are_rounding():
    """A flat background: its coefficients are 0 or 1e-17 by the order of the sums alone, and the median sees it."""
    plane = torch.full((64, 70), 0.7)
    plane[20:35, 20:35] = randn(15, 15).float()
    theirs = oracle_sigma(plane.double().numpy())
    ours = float(estimate_sigma(plane[None]))
    assert theirs < 1e-15
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-17)


def test_sigma_of_constant_planes_is_nothing():
    planes = torch.stack((torch.zeros(20, 20), randn(20, 20).float())).requires_grad_()
    sigma = estimate_sigma(planes)
    assert sigma[0].isnan()
    (gradient,) = torch.autograd.grad(sigma[1], planes)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 20)])
def test_sigma_gradient(height, width):
    planes = randn(2, height, width).requires_grad_()
    torch.autograd.gradcheck(estimate_sigma, planes, fast_mode=True)
    torch.testing.assert_close(estimate_sigma(planes), estimate_sigma(planes.detach()))
