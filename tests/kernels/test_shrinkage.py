"""Wavelet denoising against scikit-image, and its backward against the operator with constant thresholds."""

import numpy as np
import pytest
import pywt
import torch
from skimage import restoration

from cannonade.bench.parity import noisy
from cannonade.kernels.shrinkage import bayes_shrink, denoise_wavelet


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym9"])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("ycbcr", [True, False])
def test_forward_is_scikit_image(photos, wavelet, soft, ycbcr):
    images = noisy(photos[:2, :, 100:165, 100:171])
    for shifts in (0, 1):
        ours = denoise_wavelet(images.double(), wavelet, torch.tensor([ycbcr] * 2), torch.tensor([soft] * 2), shifts)
        settings = {"wavelet": wavelet, "mode": "soft" if soft else "hard", "convert2ycbcr": ycbcr, "channel_axis": -1}
        for image, out in zip(images, ours, strict=True):
            array = image.permute(1, 2, 0).double().numpy()
            theirs = restoration.cycle_spin(
                array, restoration.denoise_wavelet, shifts, workers=1, channel_axis=-1, func_kw=settings
            )
            np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), theirs, rtol=0, atol=1e-9)


def kept_part(x: np.ndarray, g: np.ndarray, wavelet: str) -> np.ndarray:
    """g, decomposed, without the coefficients that the thresholds of x remove, reconstructed: all with PyWavelets."""
    level = max(pywt.dwtn_max_level(x.shape, wavelet) - 3, 1)
    ours, moved = pywt.wavedecn(x, wavelet, level=level), pywt.wavedecn(g, wavelet, level=level)
    finest = ours[-1]["dd"]
    variance = (np.median(np.abs(finest[finest != 0])) / 0.6744897501960817) ** 2
    for bands, target in zip(ours[1:], moved[1:], strict=True):
        for key, band in bands.items():
            threshold = variance / np.sqrt(max(np.mean(band**2) - variance, 2.0**-52))
            target[key] = target[key] * (np.abs(band) >= threshold)
    return pywt.waverecn(moved, wavelet)[: x.shape[0], : x.shape[1]]


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym9"])
@pytest.mark.parametrize(("height", "width"), [(16, 18), (17, 31), (70, 64)])
@pytest.mark.filterwarnings("ignore:Level value")
def test_backward_is_the_adjoint_with_constant_thresholds(wavelet, height, width):
    x = (randn(1, height, width) * 0.1 + torch.linspace(0, 3, width).sin()).requires_grad_()
    v, g = randn(1, height, width, seed=1), randn(1, height, width, seed=2)
    for soft in (True, False):
        out = bayes_shrink(x, wavelet, torch.tensor([soft]))
        (gradient,) = torch.autograd.grad(out, x, g)
        forward = torch.from_numpy(kept_part(x.detach()[0].numpy(), v[0].numpy(), wavelet))
        torch.testing.assert_close(torch.sum(gradient * v), torch.sum(g[0] * forward))


def test_backward_of_cycle_spinning_is_the_mean():
    x, g = randn(1, 24, 21).requires_grad_(), randn(1, 24, 21, seed=1)
    soft = torch.tensor([True])
    (gradient,) = torch.autograd.grad(bayes_shrink(x, "db2", soft, 1), x, g)
    mean = torch.zeros_like(gradient)
    for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rolled = torch.roll(x, shift, (1, 2))
        mean += (
            torch.autograd.grad(torch.roll(bayes_shrink(rolled, "db2", soft), (-shift[0], -shift[1]), (1, 2)), x, g)[0]
            / 4
        )
    torch.testing.assert_close(gradient, mean)


def test_plane_without_noise_stays():
    planes = torch.stack((torch.full((20, 24), 0.37), torch.linspace(0, 1, 24).expand(20, 24).round()))
    for wavelet in ("haar", "sym9"):
        out = bayes_shrink(planes, wavelet, torch.tensor([True, False]), 1)
        torch.testing.assert_close(out, planes.double(), rtol=0, atol=1e-12)


def test_backward_twice_and_expanded():
    x = randn(3, 17, 19).requires_grad_()
    out = bayes_shrink(x, "sym9", torch.tensor([True, False, True]), 1)
    (first,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x, torch.ones(3, 17, 19, dtype=torch.float64))
    assert torch.equal(first, second)


@pytest.mark.native
def test_threads_that_share_a_plane_change_no_bit():
    """With more threads than planes the shifts of one are shared out."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            x = randn(1, 24, 21).requires_grad_()
            out = bayes_shrink(x, "db2", torch.tensor([True]), 3)
            found.append((out, torch.autograd.grad(out, x, randn(1, 24, 21, seed=1))[0]))
    finally:
        torch.set_num_threads(before)
    for out, gradient in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(gradient, found[0][1])
