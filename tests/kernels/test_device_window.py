"""Means and medians over windows on Triton, of the reference's bits; and what PyTorch asks of their operators."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, run
from cannonade.kernels.device import window
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.window import (
    _bilateral_adjoint,
    _mean_adjoint,
    _median_adjoint,
    bilateral_adjoint_into,
    bilateral_into,
    mean_adjoint_into,
    mean_into,
    median_adjoint_into,
    median_into,
    window_bilateral,
    window_mean,
    window_median,
)
from cannonade.kernels.median import box_median, disk_median
from cannonade.kernels.window import bilateral_mean, disk_mean

interpreted = pytest.mark.interpreter


def integers(low, high, *shape, seed=0):
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


def random_images(*shape):
    """A third of each plane has eight values only, so that windows have ties; one pixel is −0, and a third image constant."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(5))
    images[:, :, : shape[2] // 3] = (images[:, :, : shape[2] // 3] * 8).round() / 8
    images[0, 0, 0, 0] = -0.0
    images[2:, -1] = 0.3
    return images


def reach(count, channels):
    out = torch.stack((integers(0, 2, count, channels), integers(0, 3, count, channels, seed=1)), dim=-1)
    out[:1, 0] = torch.tensor([2, 3])
    return out


def bounds(count, channels):
    return 0.02 + torch.rand(count, channels, 2, generator=torch.Generator().manual_seed(3)) / 2


def radius(count, channels):
    """From 0 to 3, the largest for the first plane and for a constant one, whose sum rounding takes off its value."""
    out = integers(0, 3, count, channels)
    out[::2, -1] = 3
    return out


def own(make, x):
    """Parameters of each plane of a batch."""
    return make(*x.shape[:2]).to(x.device)


FUNCTIONS = {
    "disk mean": lambda x, backend: disk_mean(x, own(radius, x), backend),
    "bilateral mean": lambda x, backend: bilateral_mean(x, own(radius, x), *own(bounds, x).unbind(-1), backend),
    "disk median": lambda x, backend: disk_median(x, own(radius, x), backend),
    "box median": lambda x, backend: box_median(x, 2 * own(reach, x) + 1, backend),
}


@interpreted
@pytest.mark.parametrize("name", FUNCTIONS)
def test_has_the_bits_of_the_reference(device, name, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(window, "_TILE", (32, 32))  # the interpreter's time is one of programs, not of pixels
    exact = 0.0 if device.type == "cpu" else 1e-5  # on a GPU, PyTorch adds up a pixel's gradient in another order
    check_kernel(FUNCTIONS[name], random_images(3, 1, 17, 31).to(device), 0.0, gradient_tolerance=exact)


@interpreted
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("side", [(10, 34), (9, 4), (1, 1)], ids=["several tiles", "less than a window", "one pixel"])
def test_sizes(device, name, side):
    images, grad = (make(1, 1, *side).to(device) for make in (random_images, torch.ones))
    for ours, reference in zip(
        *(run(FUNCTIONS[name], images, grad, each) for each in ("triton", "torch")), strict=True
    ):
        assert torch.equal(ours, reference)


@interpreted
def test_median_of_values_far_apart_and_next_to_one_another(device):
    """Halving the distance between the ends leaves out one value at a time there, and has no value between them here."""
    far = 2.0 ** -integers(0, 120, 1, 1, 6, 7).float() * (1 - 2 * integers(0, 1, 1, 1, 6, 7, seed=1))
    near = 1 + integers(1, 2, 1, 1, 6, 7) * torch.finfo(torch.float32).eps
    medians = (FUNCTIONS["disk median"](torch.cat((far, near)).to(device), backend) for backend in ("triton", "torch"))
    assert torch.equal(*medians)


def launchers(count, channels, height, width, device):
    """Of where to write and what to read."""
    sizes, sides = radius(count, channels).to(device), reach(count, channels).to(device)
    limits = bounds(count, channels).to(device)
    images = every(torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1)).to(device))
    counts = torch.ones_like(images.buffer)
    places = integers(-1, height * width - 1, count, channels, height, width).to(device, torch.int32)
    return {
        "mean": lambda out, read: mean_into(out, read, sizes),
        "mean adjoint": lambda out, read: mean_adjoint_into(out, read, sizes),
        "bilateral": lambda out, read: bilateral_into(out, read, sizes, limits, counts),
        "bilateral adjoint": lambda out, read: bilateral_adjoint_into(out, read, images, sizes, limits, counts),
        "bilateral adjoint, images": lambda out, read: bilateral_adjoint_into(out, images, read, sizes, limits, counts),
        "median": lambda out, read: median_into(out, read, sides, False, places),
        "median adjoint": lambda out, read: median_adjoint_into(out, read, sides, False, places),
    }


@interpreted
@pytest.mark.parametrize("name", launchers(1, 1, 1, 1, "cpu"))
def test_rows_of_a_buffer(device, name):
    check_rows(launchers(3, 2, 7, 9, device)[name], 3, (2, 7, 9), device)


@interpreted
def test_rows_of_a_launch_keep_what_backward_needs(device):
    """Counts and places are those of the images read, in the order of the launch."""
    images, rows = random_images(4, 1, 6, 8).to(device), torch.tensor([2, 0, 2]).to(device)
    sizes, sides, limits = (make(3, 1).to(device) for make in (radius, reach, bounds))
    out, counts, places = (torch.empty(3, 1, 6, 8, device=device, dtype=dtype) for dtype in (None, None, torch.int32))
    bilateral_into(every(out), Rows(images, rows), sizes, limits, counts)
    assert torch.equal(counts, window_bilateral(images[rows], sizes, limits, "triton")[1])
    median_into(every(out), Rows(images, rows), sides, False, places)
    assert torch.equal(places, window_median(images[rows], sides, False, "triton")[1])


@interpreted
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_images(device, name):
    images = torch.rand(0, 2, 17, 31, device=device, requires_grad=True)
    out = FUNCTIONS[name](images, "triton")
    assert torch.autograd.grad(out.sum(), images)[0].shape == out.shape == images.shape


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        (window_mean, (radius(2, 2),)),
        (window_bilateral, (radius(2, 2), bounds(2, 2))),
        (window_median, (reach(2, 2), False)),
        (window_median, (radius(2, 2)[:, :, None].expand(-1, -1, 2), True)),
    ],
    ids=["mean", "bilateral", "box median", "disk median"],
)
def test_operators_are_what_pytorch_asks(operator, settings):
    torch.library.opcheck(operator, (random_images(2, 2, 7, 9).requires_grad_(), *settings, "native"))


@pytest.mark.native
def test_adjoints_are_what_pytorch_asks():
    images, sizes = random_images(2, 2, 7, 9), radius(2, 2)
    _, counts = window_bilateral(images, sizes, bounds(2, 2), "native")
    _, places = window_median(images, reach(2, 2), False, "native")
    torch.library.opcheck(_mean_adjoint, (images, sizes, "native"))
    torch.library.opcheck(_bilateral_adjoint, (images, counts, images, sizes, bounds(2, 2), "native"))
    torch.library.opcheck(_median_adjoint, (images, places, reach(2, 2), False, "native"))
