"""The Fourier filter: the published arithmetic on the whole complex spectrum, and an exact gradient."""

import pytest
import torch

from cannonade.kernels.spectrum import band_edges, perturb_spectrum

SIZES = [(16, 16), (17, 31), (18, 17), (31, 24)]


def inputs(height, width, count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * width)
    x = torch.rand(count, 3, height, width, dtype=dtype, generator=generator)
    keep = torch.rand(count, 3, generator=generator) * 0.95
    keep[0] = torch.tensor([0.0, 0.2, 0.7])
    factor = 0.98 + 0.04 * torch.rand(count, height, width, generator=generator)
    return x, keep, factor


def published(x, keep, factor):
    out = torch.empty_like(x)
    height, width = x.shape[-2:]
    for row in range(len(x)):
        for channel in range(3):
            f = float(keep[row, channel])
            spectrum = torch.fft.fft2(x[row, channel])
            spectrum[int(height * f) : int(height * (1 - f))] = 0
            spectrum[:, int(width * f) : int(width * (1 - f))] = 0
            out[row, channel] = torch.fft.ifft2(spectrum * factor[row]).real
    return out


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["f64", "f32"])
def test_equals_the_published_filter(size, dtype, atol):
    x, keep, factor = inputs(*size, dtype=dtype)
    torch.testing.assert_close(perturb_spectrum(x, keep, factor), published(x, keep, factor), atol=atol, rtol=0)


def test_band_is_empty_from_one_half_and_everything_near_zero():
    first, end = band_edges(torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75]), 20)
    assert first.tolist() == [0, 0, 5, 10, 15]
    assert end.tolist() == [20, 19, 15, 10, 5]


def test_fraction_zero_blacks_the_channel():
    x, keep, factor = inputs(16, 16)
    assert perturb_spectrum(x, keep, factor)[0, 0].abs().max() == 0


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradient(size):
    x, keep, factor = inputs(*size, count=2)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: perturb_spectrum(x, keep[:2], factor[:2]), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: perturb_spectrum(x, keep[:2], factor[:2]), x, fast_mode=True)


def test_second_backward_and_expanded_gradients():
    x, keep, factor = inputs(17, 31)
    out = perturb_spectrum(x.requires_grad_(), keep, factor)
    (first,) = torch.autograd.grad(out, x, torch.ones((), dtype=x.dtype).expand_as(out), retain_graph=True)
    (second,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert torch.equal(first, second)


def test_layouts_and_batches_agree():
    x, keep, factor = inputs(17, 31)
    out = perturb_spectrum(x, keep, factor)
    torch.testing.assert_close(perturb_spectrum(x.to(memory_format=torch.channels_last), keep, factor), out)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(perturb_spectrum(x[one], keep[one], factor[one]), out[one], atol=1e-12, rtol=0)


def test_empty_batch():
    assert perturb_spectrum(torch.zeros(0, 3, 17, 31), torch.zeros(0, 3), torch.zeros(0, 17, 31)).shape == (
        0,
        3,
        17,
        31,
    )
