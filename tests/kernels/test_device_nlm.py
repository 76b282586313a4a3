"""Non-local means on Triton against their reference, and what PyTorch asks of their operators."""

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, poisoned
from cannonade.draws import Draws, Phase
from cannonade.kernels.device import nlm
from cannonade.kernels.device.nlm import Problems, _adjoint, mean_into, nlm_mean, slopes_of
from cannonade.kernels.device.rows import every
from cannonade.kernels.nlm import nl_means
from cannonade.transforms.restoration import NonLocalMeans

interpreted = pytest.mark.interpreter


def random_images(*shape, seed=5):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_tiles(device, monkeypatch):
    """The interpreter's time is one of rows, whether or not they lie in the image."""
    if device.type == "cpu":
        monkeypatch.setattr(nlm, "_MEAN_ROWS", 3)
        monkeypatch.setattr(nlm, "_SLOPE_ROWS", 6)


def means(patch, distance, **settings):
    """Of images whose patches and distances differ; some pairs are beyond the cut, and some are not."""

    def function(x, backend):
        h, patches, distances = (torch.tensor(each, device=x.device) for each in ([0.2, 0.15, 0.3], patch, distance))
        each = slice(0, len(x))
        return nl_means(x, h[each], patches[each], distances[each], backend=backend, **settings)

    return function


@interpreted
def test_agrees_with_the_reference(device):
    check_kernel(means([3, 2, 3], [1, 1, 1]), random_images(3, 1, 3, 4).to(device), 2e-6, gradient_tolerance=2e-5)


@interpreted
@pytest.mark.parametrize(
    ("patch", "distance", "shape", "constant"),
    [
        ([4], [1], (1, 3, 5, 7), False),
        ([4], [1], (1, 3, 5, 7), True),
        ([7], [1], (1, 1, 5, 9), False),
        ([4], [1], (1, 1, 17, 31), False),
        ([4, 2], [1, 2], (2, 1, 4, 5), False),
        ([4, 2], [1, 2], (2, 1, 4, 5), True),
    ],
    ids=[
        "channels together",
        "the same, constant weights",
        "large patches",
        "several tiles",
        "mixed",
        "mixed, constant weights",
    ],
)
def test_sizes(device, patch, distance, shape, constant):
    images, function = random_images(*shape).to(device), means(patch, distance, constant_weights=constant)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    results = []
    for backend in ("triton", "torch"):
        leaf = images.clone().requires_grad_()
        out = function(leaf, backend)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@interpreted
def test_no_images(device):
    images = torch.rand(0, 3, 17, 31, device=device, requires_grad=True)
    out = nl_means(images, torch.ones(0, device=device), 5, 2, backend="triton")
    assert torch.autograd.grad(out.sum(), images)[0].shape == out.shape == images.shape
    transform, own = NonLocalMeans(patch_size=(2, 3), patch_distance=(1, 2)), every(images.detach())
    nobody = torch.zeros(0, dtype=torch.int64)
    step = transform.step(
        transform.sample(Draws(seed=0, phase=Phase.ATTACK, images=nobody, queries=nobody), images.shape)
    )
    step.backward(own, own, own, *step.forward(own, own))


def problems(device):
    """Three images of two channels: together, each by itself, and one of them left as it is."""
    return Problems(
        torch.tensor([[2.0, 2.0], [1.5, 3.0], [2.0, 1.0]], device=device),
        torch.tensor([1, 1, 1], device=device),
        torch.tensor([[1, 1], [1, 1], [1, 0]], device=device),
        torch.tensor([True, False, False], device=device),
        1, 1, False,
    )  # fmt: skip


def launchers(device):
    own, images = problems(device), every(random_images(3, 2, 3, 4).to(device))
    mean, mass = mean_into(every(torch.empty_like(images.buffer)), images, own, inside=False)
    return {
        "mean": lambda out, read: mean_into(out, read, own, False),
        "slope": lambda out, read: slopes_of(read, images, own, mean, mass).fold_into(out),
        "slope, images": lambda out, read: slopes_of(images, read, own, mean, mass).fold_into(out),
    }


@interpreted
@pytest.mark.parametrize("name", ["mean", "slope", "slope, images"])
def test_rows_of_a_buffer(device, name):
    check_rows(launchers(device)[name], 3, (2, 3, 4), device)


@interpreted
@pytest.mark.parametrize("constant", [False, True], ids=["own weights", "constant weights"])
def test_step_of_the_transform(device, constant):
    """Together and alone, and images of which one channel, or all of them, is constant and stays."""
    images = random_images(3, 3, 4, 5).to(device)
    images[1, 1], images[2] = 0, 0.7
    transform = NonLocalMeans(patch_size=(2, 3), patch_distance=(1, 2), constant_weights=constant)
    params = {
        "strength": torch.tensor([0.6, 1.1, 0.9], device=device),
        "together": torch.tensor([True, False, True], device=device),
        "patch_size": torch.tensor([3, 2, 2], device=device),
        "patch_distance": torch.tensor([1, 1, 2], device=device),
    }
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(device)
    leaf = images.double().requires_grad_()
    expected = transform.apply(leaf, params)
    (slope,) = torch.autograd.grad(expected, leaf, grad.double())
    step, out, to = transform.step(params), torch.empty_like(images), torch.empty_like(images)
    with poisoned():
        kept = step.forward(every(out), every(images))
        step.backward(every(to), every(grad), every(images), *kept)
    torch.testing.assert_close(out, expected.detach().float(), rtol=0, atol=2e-6)
    torch.testing.assert_close(to, slope.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(out[2], images[2])
    assert torch.equal(out[1, 1], images[1, 1])


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_operators_are_what_pytorch_asks():
    images, numbers = random_images(2, 3, 9, 11), torch.tensor([1, 2])
    mean, mass = nlm_mean(images, numbers, numbers, 2, 2, False, "native")
    torch.library.opcheck(nlm_mean, (images.requires_grad_(), numbers, numbers, 2, 2, False, "native"))
    images = images.detach()
    torch.library.opcheck(_adjoint, (images, mean, mass, images, numbers, numbers, 2, 2, False, "native"))
