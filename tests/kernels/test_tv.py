"""Total variation: the iteration against scikit-image, the implicit backward against the unrolled one and its limit."""

import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from cannonade.bench.parity import noisy
from cannonade.kernels.tv import tv_chambolle, tv_chambolle_unrolled


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (40, 23)])
def test_forward_is_scikit_image(channels, height, width):
    volumes = rand(3, channels, height, width)
    weight = torch.tensor([0.05, 0.12, 0.25])
    ours = tv_chambolle(volumes, weight)
    for volume, own, out in zip(volumes, weight, ours, strict=True):
        array = volume.squeeze(0) if channels == 1 else volume.permute(1, 2, 0)
        theirs = torch.from_numpy(denoise_tv_chambolle(array.numpy(), weight=float(own)))
        torch.testing.assert_close(out.squeeze(0) if channels == 1 else out.permute(1, 2, 0), theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("channels", [1, 3])
def test_backward_is_exact_in_the_limit(channels):
    volumes = rand(2, channels, 5, 4, seed=1).requires_grad_()
    weight = torch.tensor([0.1, 0.25])
    # the dual converges like 1/steps: 4,000 leave 1e-3
    torch.autograd.gradcheck(
        lambda x: tv_chambolle(x, weight, tolerance=0.0, max_iterations=4000), volumes, atol=5e-3, fast_mode=True
    )


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("noise", [False, True])
def test_backward_points_along_the_unrolled_gradient(photos, per_channel, noise):
    """The plain derivative at the last dual, without its symmetric part, drops to a cosine of .01 on some channels."""
    crops = photos[:, :, 96:192, 96:192]
    crops = noisy(crops) if noise else crops
    volumes = crops.flatten(0, 1)[::2, None] if per_channel else crops
    weight = torch.linspace(0.05, 0.25, len(volumes))
    generator = torch.Generator().manual_seed(2)
    cosines = []
    for volume, own in zip(volumes.split(1), weight.split(1), strict=True):
        x = volume.clone().requires_grad_()
        v = torch.randn(x.shape, generator=generator)
        ours = tv_chambolle(x, own)
        steps = next(
            n for n in range(200) if torch.allclose(tv_chambolle_unrolled(volume, own, n), ours, rtol=0, atol=1e-6)
        )
        (implicit,) = torch.autograd.grad(ours, x, v)
        (unrolled,) = torch.autograd.grad(tv_chambolle_unrolled(x, own, steps), x, v)
        cosines.append(torch.cosine_similarity(implicit.flatten(), unrolled.flatten(), dim=0))
    # the least are those of a handful of steps, whose last dual is far from the fixed point
    assert torch.stack(cosines).median() >= 0.995
    assert min(cosines) >= 0.98


def test_volumes_stop_by_themselves():
    volumes = torch.cat((rand(1, 3, 16, 20), torch.full((1, 3, 16, 20), 0.3), rand(1, 3, 16, 20) * 0.1))
    weight = torch.tensor([0.05, 0.1, 0.25])
    x = volumes.clone().requires_grad_()
    together = tv_chambolle(x, weight)
    (gradient,) = torch.autograd.grad(together.square().sum(), x)
    assert torch.equal(together[1], volumes[1])
    for row in range(3):
        single = volumes[row : row + 1].clone().requires_grad_()
        out = tv_chambolle(single, weight[row : row + 1])
        assert torch.equal(out[0], together[row])
        assert torch.equal(torch.autograd.grad(out.square().sum(), single)[0][0], gradient[row])


def test_backward_twice_and_expanded():
    x = rand(2, 1, 17, 19, dtype=torch.float32).requires_grad_()
    out = tv_chambolle(x, torch.tensor([0.1, 0.2]))
    (first,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x, torch.ones(2, 1, 17, 19))
    assert torch.equal(first, second)
    # ∇ᵀ of anything sums to zero, so denoising keeps the mean
    torch.testing.assert_close(first.sum((1, 2, 3)), torch.full((2,), 17.0 * 19), rtol=1e-5, atol=0)
