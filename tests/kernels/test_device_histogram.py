"""Equalisation, percentile stretching, CLAHE and new values on Triton; and what PyTorch asks of their operators."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, poisoned, run
from cannonade.kernels.device.clahe import (
    _replace_adjoint,
    clahe_adjoint_into,
    clahe_by_tiles,
    clahe_into,
    most_tiles,
    replace_values,
)
from cannonade.kernels.device.histogram import (
    _equalise_adjoint,
    _stretch_adjoint,
    equalise_adjoint_into,
    equalise_into,
    equalised_by_shares,
    stretch_adjoint_into,
    stretch_into,
    stretched_by_percentiles,
)
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.histogram import _distribution, clahe, equalise, replace_value, stretch
from cannonade.transforms.base import straight_through
from cannonade.transforms.contrast import AdaptiveHistogramEqualisation

interpreted = pytest.mark.interpreter

BINS = torch.tensor([[5, 256, 40], [2, 300, 77], [64, 3, 100]])
LOW = torch.tensor([[0.013, 0.04, 0.0], [0.02, 0.3, 0.011], [0.1, 0.02, 0.04]])
HIGH = torch.tensor([[0.97, 0.98, 1.0], [0.96, 0.6, 0.989], [0.9, 0.97, 0.96]])
ROWS = torch.tensor([[5, 9, 6], [8, 8, 8], [17, 7, 40]])
COLUMNS = torch.tensor([[7, 9, 12], [9, 9, 9], [31, 8, 50]])
LIMIT = torch.tensor([[0.02, 0.3, 0.1], [0.04, 0.04, 0.04], [0.01, 0.5, 0.1]])


def random_images(*shape):
    """A third of each plane has eight values only, one pixel is −0, and a plane of the third image is constant."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(5))
    images[:, :, : shape[2] // 3] = (images[:, :, : shape[2] // 3] * 8).round() / 8
    images[0, 0, 0, 0] = -0.0
    images[2:, -1] = 0.3
    return images


def own(x, *parameters):
    """Of the planes of images, the parameters: [N · C] each."""
    return [each[: len(x), : x.shape[1]].flatten().to(x.device) for each in parameters]


def equalised(x, backend):
    return equalise(x.flatten(0, 1), *own(x, BINS), backend).view(x.shape)


def stretched(x, backend):
    return stretch(x.flatten(0, 1), *own(x, LOW, HIGH), backend).view(x.shape)


def adapted(x, backend):
    planes = x.flatten(0, 1)
    value, slope = clahe(planes.detach(), *own(x, ROWS, COLUMNS, LIMIT), backend=backend)
    return straight_through(value, planes * slope).view(x.shape)


def revalued(x, backend):
    generator = torch.Generator().manual_seed(2)
    new, slope = (torch.rand(3, 1, 1, generator=generator).to(x)[: len(x)].expand_as(x[:, 0]) for _ in range(2))
    return replace_value(x, new, 3 * slope - 1, backend)


@interpreted
@pytest.mark.parametrize(
    ("function", "value", "gradient"),
    [(equalised, 1e-6, 3e-5), (stretched, 1e-6, 1e-4), (adapted, 0.0, 1e-4), (revalued, 1e-6, 1e-5)],
)
def test_agrees_with_reference(device, function, value, gradient):
    images = random_images(3, 3, 17, 31)
    if function is revalued:
        images[0, :, :3], images[1, :, 4] = 0, 0.4  # black, and channels that share the largest
    check_kernel(function, images.to(device), value, gradient_tolerance=gradient)


@interpreted
@pytest.mark.parametrize("function", [equalised, stretched, adapted, revalued])
@pytest.mark.parametrize("side", [(9, 130), (2, 2)], ids=["several programs", "four pixels"])
def test_sizes(device, function, side):
    images = torch.rand(1, 3, *side, generator=torch.Generator().manual_seed(1)).to(device)
    ours, reference = (run(function, images, torch.ones_like(images), each) for each in ("triton", "torch"))
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@interpreted
@pytest.mark.parametrize("bins", [51, 85, 255])
def test_bins_of_values_on_edges_are_the_references(device, bins):
    x = (torch.arange(256, dtype=torch.float32).repeat(3).view(1, 24, 32) / 255).to(device)
    number = torch.tensor([bins], device=device)
    shares = equalised_by_shares(x, number, bins + 9, "triton")[1]
    assert torch.equal(shares[:, :bins], _distribution(x.flatten(1), number[:, None]).float())
    assert torch.equal(shares[:, bins:], torch.ones(1, 9, device=device))


@interpreted
@pytest.mark.parametrize("function", [equalised, stretched, adapted, revalued])
def test_no_images(device, function):
    images = torch.rand(0, 3, 17, 31, device=device, requires_grad=True)
    out = function(images, "triton")
    assert torch.autograd.grad(out.sum(), images)[0].shape == out.shape == images.shape


def steps(device):
    """Forward, which returns what it keeps, and backward, of images [3, 3, 9, 14]."""
    bins, low, high = (each.to(device) for each in (BINS, LOW, HIGH))
    tiles = [each.clamp(4, 14).to(device) for each in (ROWS, COLUMNS)] + [LIMIT.to(device)]
    per_channel = torch.tensor([True, False, False], device=device)

    def adapt(out, images):
        slope = torch.empty(3, 3, 9, 14, device=device)
        clahe_into(out, images, *tiles, per_channel, most_tiles(torch.Size((9, 14)), 4, 4), slope)
        return (slope,)

    def adapt_adjoint(to, grad, images, slope):
        clahe_adjoint_into(to, grad, images, per_channel, slope)

    return {
        "equalise": (
            lambda out, images: (equalise_into(out, images, bins, 300),),
            lambda to, grad, images, shares: equalise_adjoint_into(to, grad, images, bins, shares),
        ),
        "stretch": (lambda out, images: stretch_into(out, images, low, high), stretch_adjoint_into),
        "clahe": (adapt, adapt_adjoint),
    }


@interpreted
def test_channels_and_value_in_one_launch(device):
    """Of the reference's bits where channels are equalised; where the value is, it differs by rounding."""
    images = random_images(3, 3, 17, 31).to(device)
    params = {"rows": ROWS, "columns": COLUMNS, "clip_limit": LIMIT, "per_channel": torch.tensor([True, False, True])}
    params = {key: value.to(device) for key, value in params.items()}
    transform = AdaptiveHistogramEqualisation(side=(5 / 17, 1.0))
    leaf = images.clone().requires_grad_()
    expected = transform.apply(leaf, params)
    (gradient,) = torch.autograd.grad(expected, leaf, images)
    step, out, to = transform.step(params), torch.empty_like(images), torch.empty_like(images)
    step.backward(every(to), every(images), every(images), *step.forward(every(out), every(images)))
    assert torch.equal(out[::2], expected[::2])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(to, gradient, rtol=1e-5, atol=1e-4)


@interpreted
@pytest.mark.parametrize("name", steps("cpu"))
def test_rows_of_a_buffer(device, name):
    forward, backward = steps(device)[name]
    images = every(random_images(3, 3, 9, 14).to(device))
    kept = forward(every(torch.empty_like(images.buffer)), images)
    check_rows(forward, 3, (3, 9, 14), device)
    check_rows(lambda to, grad: backward(to, grad, images, *kept), 3, (3, 9, 14), device)


@interpreted
@pytest.mark.parametrize("name", steps("cpu"))
def test_rows_below_zero_are_left_alone(device, name):
    forward, backward = steps(device)[name]
    images = random_images(3, 3, 9, 14).to(device)
    index = torch.tensor([0, -1, 2], device=device)
    everything = torch.empty_like(images)
    kept = forward(every(everything), every(images))
    gradient = torch.empty_like(images)
    backward(every(gradient), every(images), every(images), *kept)
    out, to = torch.full_like(images, torch.nan), torch.full_like(images, torch.nan)
    with poisoned():
        some = forward(Rows(out, index), Rows(images, index))
        backward(Rows(to, index), Rows(images, index), Rows(images, index), *some)
    for ours, expected in ((out, everything), (to, gradient)):
        assert torch.equal(ours[[0, 2]], expected[[0, 2]])
        assert ours[1].isnan().all()


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
@pytest.mark.parametrize(
    ("operator", "settings"),
    [
        (equalised_by_shares, (BINS[0], 256)),
        (stretched_by_percentiles, (LOW[0].double(), HIGH[0].double())),
    ],
    ids=["equalise", "stretch"],
)
def test_operators_are_what_pytorch_asks(operator, settings):
    planes = random_images(1, 3, 7, 9)[0].requires_grad_()
    torch.library.opcheck(operator, (planes, *settings, "native"))


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_other_operators_are_what_pytorch_asks():
    images = random_images(1, 3, 7, 9)
    planes, value = images[0], images[:, 0].clone()
    _, shares = equalised_by_shares(planes, BINS[0], 256, "native")
    _, places, numbers = stretched_by_percentiles(planes, LOW[0].double(), HIGH[0].double(), "native")
    torch.library.opcheck(_equalise_adjoint, (planes, shares, planes, BINS[0], "native"))
    torch.library.opcheck(_stretch_adjoint, (planes, places, numbers, planes, "native"))
    torch.library.opcheck(clahe_by_tiles, (planes, ROWS[0], COLUMNS[0], LIMIT[0].double(), True, 0, "native"))
    torch.library.opcheck(replace_values, (images.requires_grad_(), value, value, "native"))
    torch.library.opcheck(_replace_adjoint, (images.detach(), images.detach(), value, value, "native"))
