"""The estimate of noise on Triton."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.wavelet import _adjoint, add_sigma_gradient, noise_sigma, sigma_of_rows
from cannonade.kernels.wavelet import LOW_PASS, estimate_sigma

pytestmark = pytest.mark.interpreter
DB2 = LOW_PASS["db2"]


def random_planes(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def of_images(images, backend):
    return estimate_sigma(images.flatten(0, 1), backend)


@pytest.mark.parametrize("shape", [(3, 1, 17, 31), (3, 1, 2, 5), (3, 1, 3, 1)], ids=str)
def test_agrees_with_reference(device, shape):
    """Odd and even numbers of coefficients, and planes smaller than the filter, which a coefficient reads several times."""
    check_kernel(of_images, random_planes(*shape).to(device), 1e-12, gradient_tolerance=1e-6, storage=())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(device, dtype):
    planes = random_planes(2, 9, 12).to(device, dtype)
    torch.testing.assert_close(estimate_sigma(planes, "triton"), estimate_sigma(planes.float(), "torch"))


def test_planes_that_are_flat_in_most_places_or_everywhere(device):
    """The same coefficients are exactly 0: others are 1e-17 there, and the median sees it."""
    planes = torch.stack((torch.full((40, 34), 0.7), torch.zeros(40, 34), random_planes(40, 34)))
    planes[0, 10:17, 10:17] = random_planes(7, 7)
    planes = planes.to(device)
    ours, reference = (estimate_sigma(planes, backend) for backend in ("triton", "torch"))
    assert 0 < reference[0] < 1e-15
    assert torch.equal(ours, reference) or (ours.isnan() == reference.isnan()).all()
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0, equal_nan=True)
    leaf = planes.requires_grad_()
    (gradient,) = torch.autograd.grad(estimate_sigma(leaf, "triton").nan_to_num().sum(), leaf)
    assert gradient.isfinite().all()
    assert not gradient[1].any()


def test_gradient_is_added_to_rows(device):
    """Onto what is there, on rows in any order; where the index is below 0, nothing is read or written."""
    images, rows = random_planes(3, 2, 8, 9).to(device), torch.tensor([2, -1, 0]).to(device)
    grad = random_planes(3, 2).to(device).double()
    sigma, places, slopes = sigma_of_rows(Rows(images, rows), DB2)
    assert torch.equal(sigma[[0, 2]], sigma_of_rows(every(images[[2, 0]]), DB2)[0])
    to = torch.ones_like(images)
    add_sigma_gradient(Rows(to, rows), grad, places, slopes, DB2)
    leaf = images.clone().requires_grad_()
    sigmas = estimate_sigma(leaf.flatten(0, 1), "torch").view(3, 2)
    (expected,) = torch.autograd.grad((sigmas[[2, 0]] * grad[[0, 2]]).sum(), leaf)
    torch.testing.assert_close(to, 1 + expected, rtol=0, atol=1e-6)


def test_no_planes(device):
    planes = torch.rand(0, 8, 9, device=device, requires_grad=True)
    sigma = estimate_sigma(planes, "triton")
    assert sigma.shape == (0,)
    assert torch.autograd.grad(sigma.sum(), planes)[0].shape == planes.shape


def test_operators_are_what_pytorch_asks(device):
    planes, tests = random_planes(2, 5, 6).to(device), ("test_schema", "test_faketensor")
    torch.library.opcheck(noise_sigma, (planes, list(DB2), "triton"), test_utils=tests)
    sigma, places, slopes = noise_sigma(planes, list(DB2), "triton")
    torch.library.opcheck(_adjoint, (sigma, places, slopes, planes, list(DB2), "triton"), test_utils=tests)
