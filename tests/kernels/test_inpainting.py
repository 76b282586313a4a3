"""Inpainting by least total variation: it reaches the minimum, and dropped pixels have no say."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cannonade.kernels.inpainting import inpaint_total_variation


def inputs(count=3, height=17, width=31, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, height, width, dtype=dtype, generator=generator)
    return x, torch.rand(count, height, width, generator=generator) < 0.5


def objective(z, x, kept, weight, isotropic):
    across, down = np.zeros_like(z), np.zeros_like(z)
    across[:, :-1], down[:-1] = np.diff(z, axis=1), np.diff(z, axis=0)
    variation = np.hypot(across, down) if isotropic else np.abs(across) + np.abs(down)
    return (kept * (z - x) ** 2).sum() + weight * variation.sum()


@pytest.mark.parametrize("isotropic", [True, False], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("weight", [0.03, 0.3])
def test_reaches_the_minimum(weight, isotropic):
    x, kept = inputs(1, 10, 11)
    image, known = x[0, 0].numpy(), kept[0].numpy()
    ours = inpaint_total_variation(x, kept, weight, 100, isotropic)[0, 0].numpy()
    smooth = 1e-10  # makes the objective differentiable, at most weight·220·1e-5 from the true one

    def smoothed(flat):
        z = torch.from_numpy(flat.reshape(image.shape)).requires_grad_()
        across = torch.zeros_like(z).index_add(1, torch.arange(10), z.diff(dim=1))
        down = torch.zeros_like(z).index_add(0, torch.arange(9), z.diff(dim=0))
        squares = (across**2 + down**2,) if isotropic else (across**2, down**2)
        variation = sum((square + smooth).sqrt().sum() for square in squares)
        value = (kept[0] * (z - x[0, 0]) ** 2).sum() + weight * variation
        value.backward()
        return value.item(), z.grad.numpy().ravel()

    best = minimize(smoothed, ours.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 6000}).x
    least = objective(best.reshape(image.shape), image, known, weight, isotropic)
    ours_reached = objective(ours, image, known, weight, isotropic)
    assert ours_reached <= 1.01 * least, (ours_reached, least)


def test_dropped_pixels_have_no_influence():
    x, kept = inputs()
    other = torch.where(kept[:, None], x, 1 - x)
    assert torch.equal(inpaint_total_variation(x, kept, 0.03, 20), inpaint_total_variation(other, kept, 0.03, 20))


def test_batch_equals_single_images_and_layouts_agree():
    x, kept = inputs(dtype=torch.float32)
    out = inpaint_total_variation(x, kept, 0.03, 20)
    assert torch.equal(inpaint_total_variation(x.to(memory_format=torch.channels_last), kept, 0.03, 20), out)
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(inpaint_total_variation(x[one], kept[one], 0.03, 20), out[one])
    assert inpaint_total_variation(x[:0], kept[:0], 0.03, 20).shape == (0, 3, 17, 31)


def test_constant_stays_and_nothing_kept_is_grey():
    x = torch.full((2, 3, 16, 16), 0.3)
    kept = torch.stack((torch.zeros(16, 16), torch.ones(16, 16))).bool()
    out = inpaint_total_variation(x, kept, 0.03, 50)
    torch.testing.assert_close(out[0], torch.full_like(out[0], 0.5))
    torch.testing.assert_close(out[1], x[1])
