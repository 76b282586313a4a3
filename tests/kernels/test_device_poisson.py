"""Photon counts on Triton are those of the reference, at rates of every size."""

import pytest
import torch

from cannonade.bench.agreement import check_rows
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.poisson import photon_step, poisson

pytestmark = pytest.mark.interpreter


def streams(count, device):
    return torch.tensor([[1, 2, image, 3, 4] for image in range(count)]).to(device)


def images(*shape):
    """Black, white, negative and too bright values, and rates that are whole numbers, among others."""
    out = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    out.flatten(1)[:, :8] = torch.tensor([0.0, 1.0, -0.5, 1.5, 0.5, 0.25, 1e-6, 1e-3])
    return out


def test_counts_are_those_of_the_reference(device):
    x, levels = images(4, 3, 9, 13).to(device), torch.tensor([[1.0, 2, 60], [256] * 3, [9000] * 3, [200_000] * 3])
    levels, coordinates, grad = levels.to(device), streams(4, device), torch.randn(4, 3, 9, 13).to(device)
    step = photon_step(coordinates, lambda _: levels)
    out, to = (torch.full_like(x, torch.nan) for _ in range(2))
    kept = step.forward(every(out), every(x))
    step.backward(every(to), every(grad), every(x), *kept)
    rates = (x.clamp(min=0) * levels[:, :, None, None]).clamp(max=270_335.0)
    counts = poisson(coordinates.cpu(), rates.flatten(1).cpu(), backend="torch").view(x.shape).to(device)
    expected = counts / levels[:, :, None, None]
    assert torch.equal(out, expected.clamp(max=1))
    assert torch.equal(to, torch.where(expected <= 1, grad, 0))
    assert (expected > 1).any()


def test_rows_of_a_buffer(device):
    step = photon_step(streams(3, device), lambda own: torch.full((len(own), 3), 256.0, device=device))
    check_rows(step.forward, 3, (3, 7, 9), device)
    read = Rows(images(4, 3, 7, 9).to(device), torch.tensor([2, 0, 2], device=device))
    kept = torch.full((3, 3), 256.0, device=device)
    check_rows(lambda to, grad: step.backward(to, grad, read, kept), 3, (3, 7, 9), device)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_is_no_intensity_reads_no_other_memory(device, value):
    step = photon_step(streams(1, device), lambda own: torch.full((1, 3), 1000.0, device=device))
    out = every(torch.empty(1, 3, 2, 2, device=device))
    step.forward(out, every(torch.full((1, 3, 2, 2), value, device=device)))
    assert ((out.buffer == 0) | (out.buffer == 1)).all()
