"""The JPEG kernel: libjpeg's bits at every size and quality, and the gradient of the continuous chain."""

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch.nn import functional as F

from cannonade.bench.oracles.jpeg import round_trip
from cannonade.errors import InputError
from cannonade.kernels.jpeg import jpeg, quantisation_tables

QUALITIES = torch.tensor([1, 10, 49, 50, 55, 75, 95, 100])
SIZES = [(221, 219), (220, 218), (32, 32), (17, 31), (16, 16), (20, 22), (18, 17), (7, 9)]


def random_images(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("content", ["photos", "noise", "two-tone"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_libjpeg(content, size, photos):
    height, width = size
    noise = random_images(8, 3, height, width)
    x = {"photos": photos[:, :, :height, :width], "noise": noise, "two-tone": (noise < 0.5).float()}[content]
    out = (jpeg(x, QUALITIES) * 255).round().to(torch.uint8)
    for row, quality in enumerate(QUALITIES.tolist()):
        expected = round_trip(x[row].permute(1, 2, 0).double().numpy(), quality)
        assert np.array_equal(out[row].permute(1, 2, 0).numpy(), np.rint(expected * 255)), (quality, size)


def test_rounding_to_nearest_differs_from_truncation():
    x = torch.full((1, 3, 16, 16), 100.6 / 255)
    quality = torch.tensor([100])
    assert jpeg(x, quality).mul(255).round().unique().tolist() == [100]
    assert jpeg(x, quality, nearest=True).mul(255).round().unique().tolist() == [101]


def test_tables_at_the_ends():
    luma, chroma = quantisation_tables(torch.tensor([1, 50, 100]))
    assert luma[0].min() == chroma[0].min() == 255
    assert luma[1, 0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert luma[2].unique().tolist() == chroma[2].unique().tolist() == [1]


def continuous(x):
    """The chain without any rounding, in floating point, with a real DCT and the JFIF matrices."""
    height, width = x.shape[-2:]
    to_ycc = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]).double()
    ycc = torch.einsum("rc,nchw->nrhw", to_ycc, x)
    padded = F.pad(ycc, (0, -width % 16, 0, -height % 16), mode="replicate")
    luma, chroma = through_dct(padded[:, :1]), through_dct(F.avg_pool2d(padded[:, 1:], 2))
    chroma = chroma[..., : -(-height // 2), : -(-width // 2)]
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25], dtype=torch.float64)
    kernel = torch.outer(ramp, ramp).expand(2, 1, 4, 4)
    extended = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
    chroma = F.conv_transpose2d(extended, kernel, stride=2, groups=2)[..., 3:-3, 3:-3][..., :height, :width]
    to_rgb = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]).double()
    return torch.einsum("rc,nchw->nrhw", to_rgb, torch.cat((luma[..., :height, :width], chroma), 1))


def through_dct(x):
    matrix = torch.from_numpy(dct(np.eye(8), norm="ortho", axis=0))
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 8, 8, w // 8, 8)
    coefficients = torch.einsum("ui,vj,ncaibj->ncaubv", matrix, matrix, blocks)
    return torch.einsum("ui,vj,ncaubv->ncaibj", matrix, matrix, coefficients).reshape(n, c, h, w)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (18, 17), (23, 40)], ids=str)
def test_gradient_is_that_of_the_continuous_chain(size):
    x = (random_images(2, 3, *size, dtype=torch.float64) * 0.2 + 0.4).requires_grad_()  # no clamp acts
    grad = random_images(2, 3, *size, dtype=torch.float64, seed=1) - 0.5
    (ours,) = torch.autograd.grad(jpeg(x, torch.tensor([60, 90])), x, grad)
    (expected,) = torch.autograd.grad(continuous(x), x, grad)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)  # the standard's constants have six digits


def test_gradient_stops_where_a_clamp_acted():
    x = (random_images(1, 3, 32, 32) < 0.5).float().requires_grad_()
    out = jpeg(x, torch.tensor([90]))
    # The derivatives of an output add up to 1 over the inputs, and to 0 where a clamp acted.
    moving = torch.autograd.grad(out.sum(), x)[0].sum() / x.numel()
    inner = ((out > 0) & (out < 1)).float().mean()
    assert 0.5 * inner < moving < 0.95


def test_second_backward_and_expanded_gradients():
    x = random_images(2, 3, 17, 31).requires_grad_()
    out = jpeg(x, torch.tensor([60, 90]))
    (first,) = torch.autograd.grad(out, x, torch.ones(()).expand_as(out), retain_graph=True)
    (second,) = torch.autograd.grad(out, x, torch.ones_like(out), retain_graph=True)
    (third,) = torch.autograd.grad(out, x, torch.ones(2, 31, 17, 3).permute(0, 3, 2, 1))
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_input_layouts_and_batches_agree():
    x = random_images(3, 3, 17, 31)
    out = jpeg(x, QUALITIES[3:6])
    assert torch.equal(jpeg(x.to(memory_format=torch.channels_last), QUALITIES[3:6]), out)
    assert torch.equal(jpeg(x[:1].expand(3, -1, -1, -1), QUALITIES[3:6])[0], out[0])
    for row in range(3):
        assert torch.equal(jpeg(x[row : row + 1], QUALITIES[3 + row : 4 + row])[0], out[row])
    assert jpeg(x[:0], QUALITIES[:0]).shape == (0, 3, 17, 31)
    assert torch.equal(jpeg(x.double(), QUALITIES[3:6]).float(), out)


def test_refuses_tiny_images():
    with pytest.raises(InputError, match="at least 6"):
        jpeg(torch.zeros(1, 3, 5, 16), torch.tensor([75]))
