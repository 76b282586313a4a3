"""Non-local means against a plain sum over all shifts, which autograd differentiates, and against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from cannonade.kernels.nlm import nl_means


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(images: Tensor, h: Tensor, patch: int, distance: int, constant_weights: bool = False) -> Tensor:
    side = patch | 1
    half = side // 2
    edge = half + distance
    _, channels, height, width = images.shape
    padded = pad(images, (edge,) * 4, mode="reflect")

    def window(down: int, right: int, before: int, after: int) -> Tensor:
        top, left = edge + down - before, edge + right - before
        return padded[:, :, top : top + height + before + after, left : left + width + before + after]

    total, mass = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for down in range(-distance, distance + 1):
        for right in range(-distance, distance + 1):
            square = (window(0, 0, half - 1, half) - window(down, right, half - 1, half)).square().sum(1, keepdim=True)
            apart = (
                avg_pool2d(square, 2 * half, 1) * (2 * half) ** 2 / (channels * (h * side)[:, None, None, None] ** 2)
            )
            weight = torch.where(apart > 5, 0.0, (-apart).exp())
            weight = weight.detach() if constant_weights else weight
            total, mass = total + weight * window(down, right, 0, 0), mass + weight
    return total / mass


CASES = [(1, 5, 3, 14, 17), (3, 5, 3, 17, 14), (3, 6, 4, 16, 16), (1, 7, 2, 11, 30), (3, 2, 1, 8, 9)]


@pytest.mark.parametrize(("channels", "patch", "distance", "height", "width"), CASES)
@pytest.mark.parametrize("constant", [False, True])
def test_agrees_with_the_plain_sum(channels, patch, distance, height, width, constant):
    images = (rand(2, channels, height, width) * 0.1).requires_grad_()
    h = torch.tensor([0.02, 0.05], dtype=torch.float64, requires_grad=not constant)
    inputs = (images,) if constant else (images, h)
    ours, theirs = (f(images, h, patch, distance, constant) for f in (nl_means, plain))
    torch.testing.assert_close(ours, theirs)
    g = rand(*images.shape, seed=1) - 0.5
    for own, other in zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(theirs, inputs, g), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    images = (rand(1, 3, 9, 8) * 0.1).requires_grad_()
    h = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)  # so large that no pair is near the cut
    torch.autograd.gradcheck(lambda x, s: nl_means(x, s, 5, 2), (images, h), fast_mode=True)


@pytest.mark.parametrize(("patch", "distance"), [(5, 6), (6, 7), (7, 11)])
def test_close_to_scikit_image(photos, patch, distance):
    """Which approximates exp, so that 1e-4 is all it can agree to."""
    image = photos[0, :, 100:164, 90:160]
    ours = nl_means(image[None], torch.tensor([0.03]), patch, distance)[0].permute(1, 2, 0).numpy()
    array = image.permute(1, 2, 0).double().numpy()
    theirs = denoise_nl_means(array, patch_size=patch, patch_distance=distance, h=0.03, channel_axis=-1)
    assert np.abs(ours - theirs).mean() <= 1e-4 <= 0.1 * np.abs(ours - array).mean()


def test_single_precision_gradient_at_little_noise():
    """Gradients of weights cancel values of x/h, which are large when h is small."""
    images = 0.5 + 0.002 * rand(1, 3, 20, 20)
    h = torch.tensor([0.001], dtype=torch.float64)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x = images.to(dtype).requires_grad_()
        out = nl_means(x, h, 5, 3)
        gradients.append(torch.autograd.grad(out, x, rand(1, 3, 20, 20, seed=1).to(dtype) - 0.5)[0].double())
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 2e-4, float(error)


def test_backward_twice_and_expanded():
    x = rand(2, 3, 17, 19, dtype=torch.float32).requires_grad_()
    out = nl_means(x, torch.tensor([0.1, 0.3]), 5, 3)
    (first,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x, torch.ones(2, 3, 17, 19))
    assert torch.equal(first, second)
