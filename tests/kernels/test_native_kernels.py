"""Every kernel with native code against its reference in PyTorch: values and gradients, any layout, batch and thread count."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from cannonade.errors import InputError
from cannonade.kernels.blur import gaussian_blur
from cannonade.kernels.device.noise import Settings
from cannonade.kernels.histogram import clahe, equalise, replace_value, stretch
from cannonade.kernels.jpeg import jpeg
from cannonade.kernels.median import box_median, disk_median
from cannonade.kernels.nlm import nl_means
from cannonade.kernels.noise import add_noise
from cannonade.kernels.pointwise import shift_hsv, shift_lab, shift_xyz, shift_yuv
from cannonade.kernels.seams import carve
from cannonade.kernels.shrinkage import bayes_shrink
from cannonade.kernels.spectrum import perturb_spectrum_drawn
from cannonade.kernels.tv import tv_chambolle
from cannonade.kernels.warp import Box, resize_crop, resize_pad, rotate, swirl
from cannonade.kernels.window import bilateral_mean, disk_mean

pytestmark = pytest.mark.native
SHAPES = [(3, 3, 17, 31), (1, 3, 30, 16), (2, 3, 70, 65)]


@dataclass(frozen=True)
class Case:
    """A kernel, what it takes beside images, and how far native code may be from the reference.

    Attributes:
        parameters: a function of the number of images and a generator.
        value, gradient: largest difference allowed; 0 for equal bits.
        share: of the pixels that may differ by more, where a discontinuity turns rounding into a jump.
    """

    function: object
    parameters: object
    value: float = 0.0
    gradient: float = 0.0
    share: float = 0.0
    settings: dict = field(default_factory=dict)


def integers(low, high, *shape):
    return lambda count, generator: torch.randint(low, high + 1, (count, *shape), generator=generator)


def between(low, high, *shape):
    return lambda count, generator: low + (high - low) * torch.rand(count, *shape, generator=generator)


def each(*makers):
    return lambda count, generator: [maker(count, generator) for maker in makers]


def odd(count, generator):
    return 2 * torch.randint(0, 5, (count, 3, 2), generator=generator) + 1


def by_plane(function):
    """A kernel of volumes, called with every channel as a volume of its own."""

    def planes(images, parameter, **settings):
        own = parameter.repeat_interleave(images.shape[1])
        return function(images.flatten(0, 1)[:, None], own, **settings).view(images.shape)

    return planes


def of_planes(function):
    """A kernel of planes [P, H, W], each with parameters of its own."""

    def planes(images, *parameters, **settings):
        own = (parameter.flatten(0, 1) for parameter in parameters)
        return function(images.flatten(0, 1), *own, **settings).view(images.shape)

    return planes


def with_slope(*arguments, **settings):
    """CLAHE with its slope as its gradient."""
    value, slope = clahe(arguments[0].detach(), *arguments[1:], **settings)
    return value + slope * (arguments[0] - arguments[0].detach())


def carved(images, vertical, horizontal, **settings):
    """What is left of carved images, zeros around it."""
    out, box = carve(images, vertical, horizontal, **settings)
    rows, columns = (torch.arange(side) for side in images.shape[-2:])
    inside = (rows >= box.top[:, None])[:, :, None] & (columns >= box.left[:, None])[:, None]
    return torch.where(inside[:, None], out, 0)


def boxes(count, generator):
    """Top, left, height and width of boxes inside the smallest images."""
    return [torch.randint(low, high, (count,), generator=generator) for low, high in ((0, 5), (0, 6), (1, 13), (1, 11))]


def cropped(images, *box, **settings):
    return resize_crop(images, Box(*box), **settings)


def padded(images, side, top, left, **settings):
    """Resized, padded, and cut to the images' size."""
    height, width = images.shape[2:]
    out = resize_pad(images, side, top, left, 72, fill=0.5, **settings)
    return out[:, :, 1 : height + 1, 2 : width + 2]


def streams(count, generator):
    return torch.randint(0, 1 << 32, (count, 5), generator=generator)


def halves(count, generator):
    return torch.randint(0, 13, (count, 3, 2), generator=generator)


CASES = {
    "gaussian_blur": Case(gaussian_blur, each(between(0.1, 3, 3, 2), halves), 1e-6, 2e-6),
    "gaussian_blur, mirrored": Case(
        gaussian_blur, each(between(0.1, 3, 3, 2), halves), 1e-6, 2e-6, settings={"border": "reflect"}
    ),
    "disk_mean": Case(disk_mean, each(integers(0, 6, 3))),
    "disk_median": Case(disk_median, each(integers(0, 6, 3))),
    "box_median": Case(box_median, each(odd)),
    "bilateral_mean": Case(bilateral_mean, each(integers(0, 12, 3), between(0.02, 0.5, 3), between(0.02, 0.5, 3))),
    "jpeg": Case(jpeg, each(integers(1, 100)), 0, 1e-6),
    "jpeg, nearest": Case(jpeg, each(integers(1, 100)), 0, 1e-6, settings={"nearest": True}),
    "nl_means": Case(nl_means, each(between(0.05, 0.3), integers(2, 7), integers(1, 5)), 2e-6, 1e-5, share=1e-3),
    "nl_means, constant weights": Case(
        nl_means,
        each(between(0.05, 0.3), integers(2, 7), integers(1, 5)),
        2e-6,
        1e-5,
        share=1e-3,
        settings={"constant_weights": True},
    ),
    "add_noise": Case(
        lambda images, *own, **settings: add_noise(images, *own, Settings(0.02, 0.3, 0.3), **settings),
        each(streams, integers(0, 2), between(0, 0.3)),
        0,
        2e-6,
    ),
    "carve": Case(carved, each(integers(0, 8), integers(0, 8))),
    "shift_hsv": Case(shift_hsv, each(between(-0.2, 0.2, 3)), 2e-6, 1e-3, share=2e-3),
    "shift_lab": Case(shift_lab, each(between(-4, 4, 3)), 3e-6, 2e-4, share=1e-3),
    "shift_xyz": Case(shift_xyz, each(between(-0.05, 0.05, 3)), 3e-6, 2e-4, share=1e-3),
    "shift_yuv": Case(shift_yuv, each(between(-0.05, 0.05, 3)), 1e-6, 1e-6, share=1e-3),
    "equalise": Case(of_planes(equalise), each(integers(2, 256, 3)), 1e-6, 1e-5),
    "stretch": Case(of_planes(stretch), each(between(0.01, 0.2, 3), between(0.8, 0.99, 3)), 1e-6, 1e-4),
    "clahe": Case(of_planes(with_slope), each(integers(2, 9, 3), integers(2, 9, 3), between(0.01, 0.4, 3)), 0, 1e-5),
    "replace_value": Case(
        lambda images, new, **settings: replace_value(
            images, new.expand_as(images[:, 0]), (new - 0.3).expand_as(images[:, 0]), **settings
        ),
        each(between(0, 1, 1, 1)),
        1e-6,
        1e-5,
    ),
    "perturb_spectrum": Case(
        partial(perturb_spectrum_drawn, low=0.9, high=1.2),
        each(between(0, 0.95, 3), streams),
        2e-6,
        4e-6,
        share=1e-4,  # values within rounding of a bound, where the slope of the clip jumps
    ),
    "swirl": Case(swirl, each(between(-2, 2), integers(3, 40), integers(0, 20), integers(0, 20)), 1e-5, 5e-5),
    "rotate": Case(rotate, each(between(-180, 180)), 2e-5, 1e-4),
    "resize_crop, mirrored": Case(cropped, boxes, 1e-5, 5e-4, settings={"border": "mirror"}),
    "resize_crop, edge": Case(cropped, boxes, 1e-5, 5e-4, settings={"border": "edge"}),
    "resize_pad": Case(
        padded,
        each(integers(1, 60), integers(0, 12), integers(0, 12)),
        1e-5,
        5e-4,
        settings={"interpolation": "bilinear"},
    ),
    "resize_pad, nearest": Case(
        padded, each(integers(1, 60), integers(0, 12), integers(0, 12)), 0, 1e-4, settings={"interpolation": "nearest"}
    ),
    "tv_chambolle": Case(tv_chambolle, each(between(0.05, 0.25)), 1e-5, 1e-4),
    "tv_chambolle of planes": Case(by_plane(tv_chambolle), each(between(0.05, 0.25)), 1e-5, 1e-4),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def inputs(case, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator)
    images[:, :, : shape[2] // 3] = (images[:, :, : shape[2] // 3] * 8).round() / 8  # ties
    return images, case.parameters(len(images), generator), torch.randn(shape, generator=generator)


def forward_backward(case, images, parameters, weights, backend):
    leaf = images.detach().requires_grad_()
    out = case.function(leaf, *parameters, backend=backend, **case.settings)
    (gradient,) = torch.autograd.grad(out, leaf, weights, retain_graph=True)
    (again,) = torch.autograd.grad(out, leaf, weights)
    assert torch.equal(gradient, again), "a second backward must give the same"
    return out.detach(), gradient


def assert_near(ours, reference, most, share):
    far = (ours - reference).abs() > most
    assert far.double().mean() <= share, (
        f"{int(far.sum())} differ, by up to {float((ours - reference).abs().max()):.3g}"
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_reference(case, shape):
    arguments = inputs(case, shape)
    ours, reference = (forward_backward(case, *arguments, backend) for backend in ("native", "torch"))
    assert ours[0].dtype == torch.float32
    assert_near(ours[0], reference[0], case.value, case.share)
    assert_near(ours[1], reference[1], case.gradient, case.share)


def test_threads_that_share_an_image_change_no_bit(case):
    """With more threads than images some kernels cut an image into bands."""
    arguments = inputs(case, (1, 3, 71, 23))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(forward_backward(case, *arguments, "native"))
    finally:
        torch.set_num_threads(before)
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_layout_batch_and_threads_change_no_bit(case):
    images, parameters, weights = inputs(case, (3, 3, 17, 31))
    expected = forward_backward(case, images, parameters, weights, "native")
    last = images.to(memory_format=torch.channels_last), weights.to(memory_format=torch.channels_last)
    together = [forward_backward(case, last[0], parameters, last[1], "native")]
    rows = [
        forward_backward(case, images[i : i + 1], [p[i : i + 1] for p in parameters], weights[i : i + 1], "native")
        for i in range(3)
    ]
    together.append(tuple(torch.cat(parts) for parts in zip(*rows, strict=True)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together.append(forward_backward(case, images, parameters, weights, "native"))
    finally:
        torch.set_num_threads(before)
    for value, gradient in together:
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1])


def test_expanded_images_and_gradients(case):
    images, parameters, _ = inputs(case, (3, 3, 17, 31))
    one = images[:1].expand(3, -1, -1, -1)
    weights = torch.ones(1, 1, 1, 1).expand(3, 3, 17, 31)
    expanded = forward_backward(case, one, parameters, weights, "native")
    plain = forward_backward(case, one.contiguous(), parameters, weights.contiguous(), "native")
    assert torch.equal(expanded[0], plain[0])
    assert torch.equal(expanded[1], plain[1])


def test_no_images(case):
    images, parameters, weights = inputs(case, (0, 3, 17, 31))
    value, gradient = forward_backward(case, images, parameters, weights, "native")
    assert value.shape == gradient.shape == (0, 3, 17, 31)


def test_double_precision_is_pytorchs(case):
    images, parameters, weights = inputs(case, (1, 3, 17, 31))
    wide, weights = images.double(), weights.double()
    auto, reference = (forward_backward(case, wide, parameters, weights, backend) for backend in ("auto", "torch"))
    assert torch.equal(auto[0], reference[0])
    with pytest.raises(InputError, match='"native" has no code'):
        partial(case.function, backend="native", **case.settings)(wide, *parameters)


@pytest.mark.parametrize("levels", [None, 256, 1000], ids=lambda levels: f"{levels or 'all'} values")
@pytest.mark.parametrize("shape", [(1, 2, 40, 67), (1, 2, 224, 224), (1, 2, 257, 260)], ids=str)
def test_medians_of_few_and_many_values_and_pixels(shape, levels):
    """Ranks of one byte, of two and of more; windows of as many pixels as a byte counts, and of more."""
    images = torch.randperm(2 * shape[2] * shape[3], generator=torch.Generator().manual_seed(0)).view(shape) - 5.0
    images = images if levels is None else images % levels
    radius, sides = torch.tensor([[4, 9]]), torch.tensor([[[15, 17], [3, 5]]])
    windows = (disk_median, radius), (box_median, sides), (box_median, sides + 2)
    for function, parameter in windows:
        ours, reference = (function(images, parameter, backend) for backend in ("native", "torch"))
        assert torch.equal(ours, reference)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym9"])
@pytest.mark.parametrize("shifts", [0, 1, 3])
@pytest.mark.parametrize("shape", [(3, 17, 31), (1, 40, 33), (0, 17, 31), (2, 1, 1), (2, 2, 5)], ids=str)
def test_wavelet_shrinkage(wavelet, shifts, shape):
    """Double precision on both sides; a constant plane stays as it is."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.rand(shape, generator=generator, dtype=torch.float64)
    planes[1:2] = 0.5
    soft, weights = torch.arange(len(planes)) % 2 == 0, torch.randn(shape, generator=generator, dtype=torch.float64)
    results = []
    for backend in ("native", "torch"):
        leaf = planes.clone().requires_grad_()
        out = bayes_shrink(leaf, wavelet, soft, shifts, backend=backend)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, weights)))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grey", [0.5, 0.0], ids=["nearly grey", "nearly black"])
def test_hsv_of_colours_at_the_threshold(grey):
    """Saturation means something where hue no longer does: slopes of 10⁵ must agree to their last bits."""
    generator = torch.Generator().manual_seed(0)
    images = (grey + torch.rand(2, 3, 16, 16, generator=generator) * 3e-6).clamp(0, 1)
    shift = torch.tensor([[0.03, 0.02, -0.01], [0.02, 0.03, 0.04]])
    case = CASES["shift_hsv"]
    ours, reference = (
        forward_backward(case, images, [shift], torch.ones_like(images), backend) for backend in ("native", "torch")
    )
    torch.testing.assert_close(ours[0], reference[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours[1], reference[1], rtol=1e-5, atol=1e-3)
