"""Noise on Triton."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.kernels.device.noise import Settings, add_noise_adjoint_into, add_noise_into
from cannonade.kernels.noise import add_noise

pytestmark = pytest.mark.interpreter
SETTINGS = Settings(mean=0.02, sigma=0.3, amount=0.3)


def parameters(count, device):
    coordinates = torch.tensor([[1, 2, image, 3, 4] for image in range(count)])
    return coordinates.to(device), torch.arange(count, device=device) % 3, torch.full((count,), 0.1, device=device)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("shape", [(3, 3, 17, 31), (1, 3, 2, 2)], ids=str)
def test_agrees_with_reference(device, clip, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    own = parameters(len(images), device)
    settings = SETTINGS._replace(clip=clip)
    check_kernel(lambda x, backend: add_noise(x, *own, settings, backend), images, 2e-6, gradient_tolerance=1e-5)


def test_rows_of_a_buffer(device):
    own = parameters(3, device)
    check_rows(lambda out, images: add_noise_into(out, images, *own, SETTINGS), 3, (3, 17, 31), device)
    check_rows(
        lambda to, grad: add_noise_adjoint_into(to, grad, grad, *own, SETTINGS), 3, (3, 17, 31), device
    )  # fmt: skip
