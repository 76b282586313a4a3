"""Wavelet denoising on Triton, images of every kind in one batch."""

from functools import partial

import pytest
import torch

from cannonade.bench.agreement import check_kernel, check_rows, run
from cannonade.kernels.device import shrinkage, wavelet
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.device.shrinkage import _adjoint, wavelet_shrink
from cannonade.kernels.shrinkage import bayes_shrink, denoise_wavelet, denoise_wavelets, denoise_wavelets_step
from cannonade.kernels.wavelet import LOW_PASS, levels

interpreted = pytest.mark.interpreter
WAVELETS = ("haar", "db2", "sym9")


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch, request):
    """The interpreter's time is one of programs, not of pixels."""
    if not request.config.getoption("--gpu"):
        monkeypatch.setattr(wavelet, "_TILE", (32, 32))


def settings(count, device, most=1):
    """Every wavelet, both kinds of thresholds and colours, and no shifts as well as the most: sym9 has none."""
    number = torch.arange(count, device=device)
    return {
        "wavelet": (number + 1) % 3,
        "ycbcr": number % 2 == 0,
        "soft": number % 3 > 0,
        "shifts": torch.where(number % 3 == 1, 0, most),
    }


def mixed(images, backend, most=1):
    own = settings(len(images), images.device, most)
    if backend == "triton":
        return denoise_wavelets(images, WAVELETS, **own, most_shifts=most)
    parts = [
        denoise_wavelet(
            images[i : i + 1], WAVELETS[own["wavelet"][i]], own["ycbcr"][i : i + 1], own["soft"][i : i + 1],
            int(own["shifts"][i]), backend,
        )
        for i in range(len(images))
    ]  # fmt: skip
    return torch.cat(parts) if parts else images.double()


def photo_like(*shape):
    """Smooth, with noise; a channel of the last image is constant, and one is flat but for an edge."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 3, shape[-1]).sin() * 0.6
    images = (ramp + 0.3 * torch.rand(shape, generator=generator)).clamp(0, 1)
    images[-1, 0] = 0.37
    images[-1, 1] = (ramp > 0.4).float()
    return images


@interpreted
def test_mixed_batch_agrees_with_reference(device):
    images = photo_like(3, 3, 17, 19).to(device)
    check_kernel(partial(mixed, most=0), images, 1e-6, gradient_tolerance=1e-5, storage=())


@interpreted
@pytest.mark.parametrize(
    ("wavelet_name", "shape", "shifts"),
    [("haar", (1, 33, 35), 0), ("db2", (1, 2, 5), 2), ("haar", (2, 1, 1), 1), ("sym9", (1, 18, 5), 0)],
)
def test_planes(device, wavelet_name, shape, shifts):
    """Two levels, several shifts, and planes smaller than the filter, whose reflections are many; in float64."""
    planes = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(device)
    soft = torch.arange(len(planes), device=device) % 2 == 0
    results = (
        run(lambda x, backend: bayes_shrink(x, wavelet_name, soft, shifts, backend), planes, grad, each)
        for each in ("triton", "torch")
    )
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)


@interpreted
def test_several_tiles_and_levels(device, monkeypatch):
    monkeypatch.setattr(wavelet, "_TILE", (8, 16))
    assert levels(34, 37, 2) == 2
    planes = torch.rand(1, 34, 37, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    soft = torch.tensor([True], device=device)
    for name in ("haar", "db2"):
        results = (
            run(lambda x, backend, name=name: bayes_shrink(x, name, soft, 0, backend), planes, planes.sin(), each)
            for each in ("triton", "torch")
        )
        for ours, reference in zip(*results, strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)


@interpreted
def test_a_plane_that_is_flat_in_most_places(device):
    """Coefficients there are 0 or 1e-17 by the order of the sums alone; sigma, and so the result, depends on which."""
    planes = torch.full((1, 24, 40), 0.7, dtype=torch.float64)
    planes[:, 8:11, 9:14] = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planes, soft = planes.to(device), torch.tensor([False], device=device)
    ours, reference = (bayes_shrink(planes, "db2", soft, 0, backend) for backend in ("triton", "torch"))
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)


def step_of(count, device):
    return denoise_wavelets_step(WAVELETS, **settings(count, device), most_shifts=1)


@interpreted
def test_rows_of_a_buffer(device):
    step = step_of(2, device)
    check_rows(lambda out, images: step.forward(out, images), 2, (3, 9, 11), device)


@interpreted
def test_step_clips_and_leaves_out_rows_below_zero(device, monkeypatch):
    """With shifts and without in one batch, of which an image at a time fits."""
    monkeypatch.setattr(shrinkage, "_SCRATCH", 1)
    images = photo_like(3, 3, 8, 12).to(device)
    images[0, :, :4] = (images[0, :, :4] > 0.5).float()
    grad, leaf = images.flip(0) - 0.5, images.clone().requires_grad_()
    unclipped = mixed(leaf, "torch")
    inside = (unclipped >= 0) & (unclipped <= 1)
    assert not inside[0].all()
    (expected,) = torch.autograd.grad(unclipped, leaf, grad * inside)
    step, where = step_of(3, device), torch.tensor([2, 0, -1], device=device)
    out, to = torch.full_like(images, torch.nan), torch.full_like(images, torch.nan)
    kept = step.forward(Rows(out, where), every(images))
    step.backward(Rows(to, where), every(grad), every(images), *kept)
    for result, reference in ((out, unclipped.detach().clamp(0, 1)), (to, expected)):
        torch.testing.assert_close(result[[2, 0]], reference[:2], rtol=0, atol=1e-5)
        assert result[1].isnan().all()


@interpreted
def test_half_precision_is_that_of_float32_rounded(device):
    images = photo_like(1, 3, 8, 12).to(device, torch.bfloat16)
    ours, wide = mixed(images, "triton"), mixed(images.float(), "torch")
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), wide, rtol=0, atol=2**-8)


@interpreted
def test_no_images(device):
    images = torch.rand(0, 3, 9, 11, device=device, requires_grad=True)
    out = mixed(images, "triton")
    assert torch.autograd.grad(out.sum(), images)[0].shape == out.shape == images.shape


@interpreted
def test_triton_operators_are_what_pytorch_asks(device):
    """Shapes, dtypes and no mutation; without the part that only tracing needs."""
    own = settings(1, device, 0)
    flat, taps = [list(LOW_PASS["haar"]) + list(LOW_PASS["db2"]) + list(LOW_PASS["sym9"]), [2, 4, 18]]
    arguments = (own["wavelet"], own["soft"], own["ycbcr"], own["shifts"], flat, taps, [1, 1, 1], 0)
    images = photo_like(1, 3, 6, 7).to(device)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(shrinkage.denoised, (images, *arguments), test_utils=tests)
    _, masks, ranges = shrinkage.denoised(images, *arguments)
    torch.library.opcheck(shrinkage._denoised_adjoint, (images, masks, ranges, *arguments), test_utils=tests)


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_operators_are_what_pytorch_asks():
    planes, soft = torch.rand(2, 7, 9, dtype=torch.float64), torch.tensor([True, False])
    arguments = (list(LOW_PASS["db2"]), 1, 1, "native")
    torch.library.opcheck(wavelet_shrink, (planes.clone().requires_grad_(), soft, *arguments))
    _, masks = wavelet_shrink(planes, soft, *arguments)
    torch.library.opcheck(_adjoint, (planes, masks, *arguments))
