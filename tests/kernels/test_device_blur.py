"""Gaussian blur on Triton."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.kernels.blur import gaussian_blur
from cannonade.kernels.device.blur import blur_adjoint_into, blur_into

pytestmark = pytest.mark.interpreter


def parameters(count, device):
    generator = torch.Generator().manual_seed(count)
    sigma = 0.3 + torch.rand(count, 3, 2, generator=generator)
    return sigma.to(device), torch.randint(0, 4, (count, 3, 2), generator=generator).to(device)


@pytest.mark.parametrize("border", ["replicate", "reflect"])
@pytest.mark.parametrize("shape", [(3, 3, 17, 31), (1, 3, 6, 130)], ids=str)
def test_agrees_with_reference(device, border, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    sigma, halves = parameters(len(images), device)
    check_kernel(lambda x, backend: gaussian_blur(x, sigma[: len(x)], halves[: len(x)], border, backend), images, 1e-6)


def test_one_pixel(device):
    images = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)).to(device)
    sigma, halves = parameters(2, device)
    check_kernel(lambda x, backend: gaussian_blur(x, sigma, halves, backend=backend), images, 1e-6)


@pytest.mark.parametrize("launcher", [blur_into, blur_adjoint_into])
def test_rows_of_a_buffer(device, launcher):
    sigma, halves = parameters(3, device)
    check_rows(lambda out, images: launcher(out, images, sigma, halves, False), 3, (3, 17, 31), device)
