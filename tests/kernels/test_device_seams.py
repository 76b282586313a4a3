"""Seam carving on Triton: the seams of the reference, and the enlargement of what they leave."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, poisoned
from cannonade.kernels.device import seams
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.seams import expand_adjoint_into, expand_into, seams_index, seams_index_into
from cannonade.kernels.seams import _index, carve, carve_and_expand_step
from cannonade.kernels.warp import Box, resize_crop

interpreted = pytest.mark.interpreter


def random_images(*shape):
    """Half of the first image is constant and the second has two values, so that seams have ties."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[:1, :, :, : shape[3] // 2] = 0.5
    images[1:2] = images[1:2].round()
    return images


def counts(*values, device):
    return torch.tensor(values, device=device)


class _Expand(torch.autograd.Function):
    """The step as a function of images."""

    @staticmethod
    def forward(ctx, images, step):
        ctx.step, source, out = step, every(images), torch.empty(images.shape, dtype=images.dtype)
        ctx.kept = step.forward(every(out), source)
        ctx.source = source
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty(grad.shape, dtype=grad.dtype)
        ctx.step.backward(every(out), every(grad), ctx.source, *ctx.kept)
        return out, None


def expanded(images, vertical, horizontal, backend):
    if backend == "triton":
        return _Expand.apply(images, carve_and_expand_step(vertical, horizontal))
    carved, box = carve(images, vertical, horizontal, backend)
    return resize_crop(carved, box, border="mirror")


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_takes_the_seams_of_the_reference(device, dtype):
    images = random_images(3, 3, 9, 14).to(device, dtype)
    vertical, horizontal = counts(3, 2, 0, device=device), counts(2, 0, 3, device=device)
    with poisoned():
        index = seams_index(images, vertical, horizontal, "triton")
    rows, columns = (torch.arange(side, device=device) for side in images.shape[2:])
    inside = (rows >= horizontal[:, None])[:, :, None] & (columns >= vertical[:, None])[:, None]
    expected = _index(images, vertical, horizontal)
    assert torch.equal(index[inside], expected[inside])
    assert index.min() >= 0
    assert index.max() < 9 * 14
    assert torch.equal(
        carve(images, vertical, horizontal, "triton")[0][:, :, 3:, 3:],
        carve(images, vertical, horizontal, "torch")[0][:, :, 3:, 3:],
    )


@interpreted
@pytest.mark.parametrize(("height", "width", "many"), [(17, 31, 2), (4, 34, 2), (2, 2, 0), (3, 8, 6)])
def test_sizes(device, monkeypatch, height, width, many):
    """Several bands and tiles, and seams until two columns are left."""
    monkeypatch.setattr(seams, "_MOVED", 64)
    monkeypatch.setattr(seams, "_SPAN", 4)
    images, none = random_images(1, 3, height, width).to(device), counts(0, device=device)
    index = seams_index(images, counts(many, device=device), none, "triton")
    assert torch.equal(index[:, :, many:], _index(images, counts(many, device=device), none)[:, :, many:])


@interpreted
def test_nan_leads_nowhere_out_of_the_image(device):
    images = torch.full((1, 3, 5, 8), torch.nan, device=device)
    index = seams_index(images, counts(2, device=device), counts(1, device=device), "triton")
    assert index.min() >= 0
    assert index.max() < 5 * 8


@interpreted
def test_expands_as_the_reference(device, monkeypatch):
    monkeypatch.setattr(seams, "_TILE", (16, 32))
    images = random_images(3, 3, 9, 14).to(device)
    vertical, horizontal = counts(2, 1, 0, device=device), counts(0, 2, 0, device=device)
    check_kernel(lambda x, backend: expanded(x, vertical, horizontal, backend), images, 1e-5)


@interpreted
@pytest.mark.parametrize(("height", "width"), [(9, 14), (4, 34)])
def test_enlargement_by_any_factor(device, height, width):
    """From two pixels to all of them; each reader's gradient arrives."""
    images = random_images(4, 3, height, width).to(device)
    horizontal, vertical = counts(0, height - 2, 1, 1, device=device), counts(width - 2, 0, width - 3, 1, device=device)
    index = torch.arange(height * width, device=device, dtype=torch.int32).view(1, height, width).repeat(4, 1, 1)
    out, slope = torch.empty_like(images), torch.empty_like(images)
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).to(device)
    with poisoned():
        expand_into(every(out), every(images), index, vertical, horizontal)
        expand_adjoint_into(every(slope), every(grad), index, vertical, horizontal)
    leaf = images.clone().requires_grad_()
    box = Box(horizontal, vertical, height - horizontal, width - vertical)
    expected = resize_crop(leaf, box, border="mirror")
    torch.testing.assert_close(out, expected.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, leaf, grad)[0], rtol=0, atol=1e-4)


@interpreted
def test_rows_of_a_buffer(device):
    step = carve_and_expand_step(counts(1, 0, 2, device=device), counts(0, 1, 1, device=device))
    check_rows(step.forward, 3, (3, 5, 6), device)
    images = every(random_images(3, 3, 5, 6).to(device))
    kept = step.forward(every(torch.empty_like(images.buffer)), images)
    check_rows(lambda out, grad: step.backward(out, grad, images, *kept), 3, (3, 5, 6), device)


@interpreted
def test_no_image_is_no_work(device):
    vertical, horizontal = counts(1, 1, device=device), counts(1, 0, device=device)
    images, index = random_images(2, 3, 5, 6).to(device), torch.tensor([-1, 1], device=device)
    table = torch.full((2, 5, 6), -7, device=device, dtype=torch.int32)
    seams_index_into(table, Rows(images, index), vertical, horizontal)
    assert (table[0] == -7).all()
    assert torch.equal(table[1], seams_index(images, vertical, horizontal, "triton")[1].int())
    for launcher in (expand_into, expand_adjoint_into):
        out = torch.full_like(images, torch.nan)
        launcher(Rows(out, index), Rows(images, index), table, vertical, horizontal)
        assert out[0].isnan().all()
        assert out[1].isfinite().all()


@interpreted
def test_no_images(device):
    none, images = torch.zeros(0, dtype=torch.int64, device=device), torch.rand(0, 3, 5, 6, device=device)
    assert seams_index(images, none, none, "triton").shape == (0, 5, 6)
    out = images.clone()
    kept = carve_and_expand_step(none, none).forward(every(out), every(images))
    carve_and_expand_step(none, none).backward(every(out), every(images), every(images), *kept)


@pytest.mark.native
def test_operator_is_what_pytorch_asks():
    vertical, horizontal = counts(1, 0, device="cpu"), counts(0, 2, device="cpu")
    torch.library.opcheck(seams_index, (random_images(2, 3, 7, 9), vertical, horizontal, "native"))
