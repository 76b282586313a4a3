"""Filters in the Fourier domain on Triton, and their operator."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.spectrum import Filter, perturb, perturb_adjoint_into, perturb_into
from cannonade.kernels.philox import draw
from cannonade.kernels.spectrum import perturb_spectrum_drawn

interpreted = pytest.mark.interpreter


def images(shape, device):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


def own(count, device, channels=3):
    """A black channel, one that keeps everything, and others."""
    keep = torch.tensor([0.0, 0.7, 0.3, 0.45, 0.2, 0.5, 0.1, 0.33, 0.95]).view(3, -1)[:count, :channels]
    coordinates = torch.tensor([[1, 2, image, 3, 4] for image in range(count)])
    return Filter(keep.contiguous().to(device), coordinates.to(device), 0.9, 1.2)


@interpreted
@pytest.mark.parametrize("shape", [(3, 3, 17, 31), (1, 3, 6, 44), (1, 1, 1, 1)], ids=str)
def test_agrees_with_reference(device, shape):
    settings = own(shape[0], device, shape[1])
    keep, coordinates = (value.expand(3, -1) if len(value) == 1 else value for value in settings[:2])
    bounds = settings[2:]
    check_kernel(
        lambda x, backend: perturb_spectrum_drawn(x, keep[: len(x)], coordinates[: len(x)], *bounds, backend),
        images(shape, device),
        2e-6,
        gradient_tolerance=4e-6,
    )


@pytest.mark.parametrize(
    "backend", [pytest.param("triton", marks=interpreted), pytest.param("native", marks=pytest.mark.native)]
)
@pytest.mark.parametrize("size", [(17, 31), (6, 8)], ids=str)
def test_factors_have_the_bits_of_the_stream(monkeypatch, device, size, backend):
    """A half spectrum of ones becomes its weights."""
    ones, spectra = torch.ones(1, 1, *size, device=device), []
    half = torch.ones(1, 1, size[0], size[1] // 2 + 1, dtype=torch.complex64, device=device)
    monkeypatch.setattr(torch.fft, "rfft2", lambda _: half)
    monkeypatch.setattr(torch.fft, "irfft2", lambda weights, s: spectra.append(weights) or ones.clone())
    settings = own(1, device, 1)._replace(keep=torch.ones(1, 1, device=device))
    perturb_spectrum_drawn(ones, *settings, backend)
    factor = draw(settings.coordinates, ones.numel(), "uniform").mul_(1.2 - 0.9).add_(0.9).view(size)
    opposite = factor.flip(0, 1).roll((1, 1), (0, 1))
    assert torch.equal(spectra[0][0, 0].real, ((factor + opposite) * 0.5)[:, : size[1] // 2 + 1])
    assert torch.equal(spectra[0][0, 0].imag, torch.zeros_like(spectra[0][0, 0].imag))


@interpreted
def test_no_images(device):
    x = torch.zeros(0, 3, 17, 31, device=device, requires_grad=True)
    out = perturb_spectrum_drawn(x, *own(0, device), "triton")
    assert out.shape == torch.autograd.grad(out.sum(), x)[0].shape == x.shape


@interpreted
def test_rows_of_a_buffer(device):
    settings = own(3, device)
    check_rows(lambda out, x: perturb_into(out, x, settings), 3, (3, 17, 31), device)
    inside = (images((3, 3, 17, 31), device) < 0.7).to(torch.uint8)
    check_rows(lambda to, grad: perturb_adjoint_into(to, grad, settings, inside), 3, (3, 17, 31), device)


@interpreted
def test_rows_below_zero_are_no_images(device):
    settings, buffer = own(3, device), images((3, 3, 6, 9), device)
    index = torch.tensor([0, -1, 2], device=device)
    out, whole = torch.full_like(buffer, torch.nan), torch.empty_like(buffer)
    inside = perturb_into(Rows(out, index), Rows(buffer, index), settings)
    assert torch.equal(inside[::2], perturb_into(every(whole), every(buffer), settings)[::2])
    assert torch.equal(out[::2], whole[::2])
    assert out[1].isnan().all()
    out.fill_(torch.nan)
    perturb_adjoint_into(Rows(out, index), Rows(buffer, index), settings, inside)
    perturb_adjoint_into(every(whole), every(buffer), settings, inside)
    assert torch.equal(out[::2], whole[::2])
    assert out[1].isnan().all()


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_registration():
    torch.library.opcheck(perturb, (images((2, 3, 9, 12), "cpu").requires_grad_(), *own(2, "cpu"), "native"))
