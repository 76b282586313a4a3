"""JPEG round trips on Triton."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.kernels.device.jpeg import jpeg_adjoint_into, jpeg_into
from cannonade.kernels.jpeg import jpeg, quantisation_tables

pytestmark = pytest.mark.interpreter
QUALITY = torch.tensor([5, 55, 95])


def images(shape):
    """Smooth and noisy parts, and what makes the clamps act."""
    generator = torch.Generator().manual_seed(0)
    out = torch.rand(shape, generator=generator)
    out[..., : shape[3] // 2] = (out[..., : shape[3] // 2] > 0.5).float()
    return out


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("shape", [(3, 3, 17, 31), (1, 3, 6, 50), (2, 3, 16, 20)], ids=str)
def test_agrees_with_reference_to_the_bit(device, nearest, shape):
    quality = QUALITY[: shape[0]].to(device)
    check_kernel(
        lambda x, backend: jpeg(x, quality, nearest, backend), images(shape).to(device), 0, gradient_tolerance=5e-6
    )  # fmt: skip


def test_rows_of_a_buffer(device):
    tables = quantisation_tables(QUALITY.to(device))
    check_rows(lambda out, own: jpeg_into(out, own, *tables, False), 3, (3, 17, 31), device)
    masks = (
        torch.randint(0, 2, shape, dtype=torch.uint8).to(device)
        for shape in ((3, 3, 17, 31), (3, 17, 31), (3, 2, 9, 16))
    )
    masks = tuple(masks)
    check_rows(lambda to, grad: jpeg_adjoint_into(to, grad, *masks), 3, (3, 17, 31), device)
