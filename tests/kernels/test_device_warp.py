"""Warps on Triton, and their operators."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.warp import (
    resize,
    resize_adjoint_into,
    resize_into,
    turn,
    turn_adjoint_into,
    turn_into,
)
from cannonade.kernels.warp import Box, resize_crop, resize_pad, rotate, swirl

interpreted = pytest.mark.interpreter


def images(shape, device):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)


def column(values, count, device):
    return torch.tensor(values, device=device)[:count]


def swirls(x, backend):
    """A whole image stirred, one that is hardly touched, and one about a place beside it, its mirror drawn in."""
    own = [[1.9, -0.2, 3.0], [14, 200, 9], [12, 3, 25], [8, 5, -2]]
    return swirl(x, *(column(values, len(x), x.device) for values in own), backend=backend)


def rotations(x, backend):
    return rotate(x, column([33.0, -171.0, 90.0], len(x), x.device), backend)


def crops(border):
    def crop(x, backend):
        height, width = x.shape[-2:]
        sides = [0, 4, height - 9], [2, 0, 1], [height, 1, 9], [width - 2, width - 1, 20]
        return resize_crop(x, Box(*(column(values, len(x), x.device) for values in sides)), border, backend)

    return crop


def pads(interpolation):
    def pad(x, backend):
        """Larger than the image and smaller."""
        sides = [23, 7, 1], [0, 9, 22], [0, 16, 11]
        return resize_pad(
            x, *(column(values, len(x), x.device) for values in sides), 23, interpolation, 0.5, backend
        )  # fmt: skip

    return pad


WARPS = {
    "swirl": swirls,
    "rotate": rotations,
    "zoom": crops("mirror"),
    "crop": crops("edge"),
    "pad nearest": pads("nearest"),
    "pad bilinear": pads("bilinear"),
}


@pytest.fixture(params=WARPS.values(), ids=WARPS.keys())
def warp(request):
    return request.param


@interpreted
def test_agrees_with_reference(device, warp):
    size = (9, 15) if warp is swirls else (17, 31)
    check_kernel(warp, images((3, 3, *size), device), 1e-5, gradient_tolerance=1e-4)


@interpreted
def test_swirl_of_a_small_image(device):
    own = [torch.tensor([value], device=device) for value in (1.5, 4, 2, 1)]
    check_kernel(lambda x, backend: swirl(x[:1], *own, backend=backend), images((1, 2, 2, 5), device), 1e-5, storage=())


@interpreted
def test_no_images(device, warp):
    assert len(warp(torch.zeros(0, 3, 17, 31, device=device), "triton")) == 0


@interpreted
@pytest.mark.parametrize("launcher", [turn_into, turn_adjoint_into])
def test_turned_rows_of_a_buffer(device, launcher):
    turns = torch.tensor([[1.7, 0.4, 4.0, 9.0], [0.5, 0.1, 20.0, 2.0], [0.0, 0.0, 8.0, 15.0]], device=device)
    check_rows(lambda out, x: launcher(out, x, turns, True), 3, (3, 17, 31), device)


PLACES = torch.tensor(
    [[[0, 17, 3, 9], [0, 31, 0, 31]], [[2, 9, 0, 17], [30, 1, 4, 20]], [[5, 12, 16, 1], [0, 4, 1, 9]]]
)


@interpreted
@pytest.mark.parametrize("read", ["mirror", "nearest"])
def test_resized_rows_of_a_buffer(device, read):
    places = PLACES.to(device)
    check_rows(lambda out, x: resize_into(out, x, places, read, 0.5), 3, (3, 17, 31), device)
    check_rows(lambda to, grad: resize_adjoint_into(to, grad, places, read), 3, (3, 17, 31), device)


BOXES = torch.tensor([[[0, 7, 1, 4], [1, 9, 0, 11]], [[0, 1, 0, 1], [0, 1, 0, 1]], [[2, 3, 0, 7], [0, 11, 5, 3]]])
TURNS = torch.tensor([[1.7, 0.4, 4.0, 4.0], [0.5, 0.1, 2.0, 2.0], [1.0, 0.2, 3.0, 5.0]])


@interpreted
@pytest.mark.parametrize(
    ("launcher", "parameters", "settings"),
    [
        (turn_into, TURNS, (True,)),
        (turn_adjoint_into, TURNS, (True,)),
        (resize_into, BOXES, ("edge", 0.5)),
        (resize_adjoint_into, BOXES, ("edge",)),
    ],
)
def test_rows_below_zero_are_no_images(device, launcher, parameters, settings):
    buffer, index = images((3, 1, 7, 11), device), torch.tensor([0, -1, 2], device=device)
    out, whole = torch.full_like(buffer, torch.nan), torch.zeros_like(buffer)
    own = parameters.to(device)
    launcher(Rows(out, index), Rows(buffer, index), own, *settings)
    launcher(every(whole), every(buffer), own, *settings)
    assert torch.equal(out[::2], whole[::2])
    assert out[1].isnan().all()


@interpreted
@pytest.mark.parametrize("strength", [-2.0, 7.0])
def test_no_reader_is_missed(device, strength):
    """The gradient of a sum: where the turn stretches most, every weight that was read comes back."""
    ones = torch.ones(1, 1, 17, 31, device=device)
    own = [torch.tensor([value], device=device) for value in (strength, 30.0, 12, 7)]
    slopes = []
    for backend in ("triton", "torch"):
        leaf = ones.clone().requires_grad_()
        slopes.append(torch.autograd.grad(swirl(leaf, *own, backend=backend).sum(), leaf)[0])
    torch.testing.assert_close(*slopes, rtol=0, atol=2e-5)


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_operators():
    x = images((2, 3, 9, 12), "cpu").detach().requires_grad_()
    turns = torch.tensor([[1.7, 0.4, 4.0, 9.0], [0.5, 0.0, 2.0, 2.0]])
    torch.library.opcheck(turn, (x, turns, True, "native"))
    torch.library.opcheck(resize, (x, PLACES[1:] // 2, 20, 31, "edge", 0.5, "native"))


def test_one_line_cannot_be_turned():
    with pytest.raises(InputError, match="at least 2 pixels"):
        rotate(torch.zeros(1, 3, 1, 9), torch.zeros(1))
