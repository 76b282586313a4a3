"""Total variation on Triton, and what PyTorch asks of its operators."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, poisoned
from cannonade.kernels.device import tv
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.tv import _adjoint, tv_adjoint_into, tv_into, tv_solve
from cannonade.kernels.tv import _solve, tv_chambolle

interpreted = pytest.mark.interpreter


def random_images(*shape):
    """The last image of three is constant."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[2:] = 0.3
    return images


def parameters(count, device):
    weight = 0.05 + 0.2 * torch.rand(count, generator=torch.Generator().manual_seed(1))
    return weight.to(device), torch.arange(count, device=device) % 2 == 0


@interpreted
@pytest.mark.parametrize(
    ("shape", "tile", "tolerance", "most"),
    [
        ((3, 3, 7, 9), (16, 8), 0.1, 4),
        ((1, 3, 9, 34), (32, 32), 0.0, 2),
        ((2, 1, 17, 31), (16, 32), 2e-4, 2),
        ((1, 1, 1, 1), (8, 8), 0.0, 2),
    ],
    ids=str,
)
def test_agrees_with_reference(device, monkeypatch, shape, tile, tolerance, most):
    monkeypatch.setattr(tv, "_TILE", tile)
    images = random_images(*shape).to(device)
    weight, per_channel = parameters(len(images), device)
    check_kernel(
        lambda x, backend: tv_chambolle(x, weight, tolerance, most, backend, per_channel),
        images,
        1e-6,
        gradient_tolerance=1e-5,
        storage=(torch.bfloat16,),
    )


@interpreted
def test_volumes_stop_by_themselves(device):
    """After as many steps as in the reference."""
    images = random_images(3, 3, 7, 9).to(device)
    images[1] *= 0.1
    weight, per_channel = parameters(3, device)
    _, _, steps = tv_solve(images, weight, per_channel, 0.05, 20, "triton")
    planes, thrice = images.flatten(0, 1)[:, None], weight.repeat_interleave(3)
    alone, together = _solve(planes, thrice, 0.05, 20)[2].view(3, 3), _solve(images, weight, 0.05, 20)[2]
    assert torch.equal(steps[per_channel], alone[per_channel])
    assert torch.equal(steps[~per_channel, 0], together[~per_channel])
    assert len(set(steps.flatten().tolist())) >= 3


@interpreted
def test_rows_of_a_buffer(device):
    weight, per_channel = parameters(3, device)
    check_rows(lambda out, images: tv_into(out, images, weight, per_channel, 0.0, 3), 3, (3, 5, 6), device)
    images = random_images(3, 3, 5, 6).to(device)
    kept = tv_into(None, every(images), weight, per_channel, 0.0, 3)
    check_rows(lambda out, grad: tv_adjoint_into(out, grad, *kept, weight, per_channel), 3, (3, 5, 6), device)


@interpreted
def test_no_image_is_no_work(device):
    weight, per_channel = parameters(2, device)
    images, index = random_images(2, 3, 5, 6).to(device), torch.tensor([-1, 1], device=device)
    out = torch.full_like(images, torch.nan)
    kept = tv_into(Rows(out, index), Rows(images, index), weight, per_channel, 0.0, 3)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    grad = torch.full_like(images, torch.nan)
    tv_adjoint_into(Rows(grad, index), Rows(images, index), *kept, weight, per_channel)
    assert grad[0].isnan().all()
    assert grad[1].isfinite().all()


@interpreted
def test_results_of_launchers_are_clipped(device):
    images = (1.2 * random_images(2, 3, 7, 9) - 0.1).to(device)
    weight, per_channel = parameters(2, device)
    out = torch.empty_like(images)
    with poisoned():
        u, _, _ = tv_into(every(out), every(images), weight / 10, per_channel, 2e-4, 3)
    assert u.min() < 0
    assert u.max() > 1
    assert torch.equal(out, u.clamp(0, 1))


@interpreted
def test_no_images(device):
    images = torch.rand(0, 3, 7, 9, device=device, requires_grad=True)
    weight, per_channel = parameters(0, device)
    out = tv_chambolle(images, weight, backend="triton", per_channel=per_channel)
    assert torch.autograd.grad(out.sum(), images)[0].shape == out.shape == images.shape


@pytest.mark.native
def test_native_code_takes_channels_alone_or_together():
    images = random_images(4, 3, 17, 31).requires_grad_()
    weight, per_channel = parameters(4, "cpu")
    results = []
    for backend in ("native", "torch"):
        out = tv_chambolle(images, weight, backend=backend, per_channel=per_channel)
        results.append((out, *torch.autograd.grad(out.square().sum(), images)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-4)


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_operators_are_what_pytorch_asks():
    images = random_images(2, 3, 7, 9)
    weight, per_channel = parameters(2, "cpu")
    settings = (weight, per_channel, 2e-4, 5, "native")
    torch.library.opcheck(tv_solve, (images.clone().requires_grad_(), *settings))
    torch.library.opcheck(_adjoint, (images, *tv_solve(images, *settings), weight, per_channel, "native"))
