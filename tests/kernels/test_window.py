"""Window filters: values against plain definitions, gradients against differences, and ties, borders and blocks."""

import pytest
import torch
import torch.nn.functional as F

from cannonade.errors import InputError
from cannonade.kernels import sheets
from cannonade.kernels.blur import gaussian_blur
from cannonade.kernels.median import box_median, disk_median
from cannonade.kernels.sheets import disk
from cannonade.kernels.window import bilateral_mean, disk_mean

SHAPES = [(2, 3, 17, 31), (1, 1, 5, 40)]


def random_images(*shape, levels=None, dtype=torch.float64):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
    return images if levels is None else (images * levels).floor() / levels


def per_plane(images, low, high):
    """An integer in {low, …, high} for every plane: [N, C]."""
    generator = torch.Generator().manual_seed(6)
    return torch.randint(low, high + 1, images.shape[:2], generator=generator)


def neighbours(plane, radius):
    """[K, H, W] values of the disk in raster order; NaN outside the image."""
    height, width = plane.shape
    padded = F.pad(plane, (radius,) * 4, value=float("nan"))
    shifts = [
        (y, x) for y in range(-radius, radius + 1) for x in range(-radius, radius + 1) if y * y + x * x <= radius**2
    ]
    return torch.stack([padded[radius + y :, radius + x :][:height, :width] for y, x in shifts])


def by_plane(function, images, *parameters):
    rows = zip(images.flatten(0, 1), *(each.flatten() for each in parameters), strict=True)
    return torch.stack([function(plane, *own) for plane, *own in rows]).view(images.shape)


def plain_median(plane, radius):
    values = neighbours(plane, int(radius)).sort(dim=0).values  # NaN comes last
    return values.gather(0, (~values.isnan()).sum(0)[None] // 2)[0]


def plain_bilateral(plane, radius, below, above):
    values = neighbours(plane, int(radius))
    member = (values > plane - below) & (values < plane + above)
    return torch.where(member, values, 0).sum(0) / member.sum(0)


@pytest.mark.parametrize("levels", [None, 2, 255, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_disk_median(shape, levels):
    images = random_images(*shape, levels=levels, dtype=torch.float32)
    for low, high in ((0, 5), (9, 10)):  # up to 317 pixels, more than a byte counts
        radius = per_plane(images, low, high)
        assert torch.equal(disk_median(images, radius), by_plane(plain_median, images, radius))


@pytest.mark.parametrize("levels", [None, 256, 257])
def test_disk_median_of_a_plane_with_many_values(levels):
    images = random_images(1, 1, 260, 257, levels=levels)
    radius = per_plane(images, 2, 2)
    assert torch.equal(disk_median(images, radius), by_plane(plain_median, images, radius))


@pytest.mark.parametrize("shape", SHAPES)
def test_box_median(shape):
    images = random_images(*shape, dtype=torch.float32) - 0.2
    sides = 2 * torch.stack((per_plane(images, 0, 3), per_plane(images, 1, 6)), dim=-1) + 1
    height, width = shape[2:]

    def plain(plane, rows, columns):
        half = rows // 2, columns // 2
        padded = F.pad(plane, (half[1], half[1], half[0], half[0]))
        shifts = [padded[y : y + height, x : x + width] for y in range(rows) for x in range(columns)]
        return torch.stack(shifts).median(dim=0).values

    assert torch.equal(box_median(images, sides), by_plane(plain, images, *sides.unbind(-1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_disk_mean(shape):
    images, radius = random_images(*shape), per_plane(random_images(*shape), 0, 6)
    expected = by_plane(lambda plane, own: neighbours(plane, int(own)).nanmean(0), images, radius)
    torch.testing.assert_close(disk_mean(images, radius), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_bilateral_mean(shape):
    images, radius = random_images(*shape), per_plane(random_images(*shape), 0, 7)
    below, above = (0.02 * per_plane(images, low, 20) for low in (5, 7))
    expected = by_plane(plain_bilateral, images, radius, below, above)
    torch.testing.assert_close(bilateral_mean(images, radius, below, above), expected)


@pytest.mark.parametrize("border", ["replicate", "reflect"])
def test_gaussian_blur(border):
    images = random_images(2, 3, 17, 31)
    half = torch.stack((per_plane(images, 0, 8), per_plane(images, 1, 9)), dim=-1)
    sigma = 0.3 + half / 3

    def plain(plane, half_down, half_right, *sigmas):
        halves = (int(half_down), int(half_right))
        down, right = (
            torch.exp(-(torch.arange(-h, h + 1, dtype=plane.dtype) ** 2) / (2 * s**2))
            for h, s in zip(halves, sigmas, strict=True)
        )
        kernel = down[:, None] * right
        padded = F.pad(plane[None, None], (halves[1],) * 2 + (halves[0],) * 2, mode=border)
        return F.conv2d(padded, kernel[None, None] / kernel.sum())[0, 0]

    expected = by_plane(plain, images, *half.unbind(-1), *sigma.double().unbind(-1))
    torch.testing.assert_close(gaussian_blur(images, sigma, half, border), expected, rtol=0, atol=1e-7)


def test_gaussian_blur_reaches_four_sigma_by_default():
    images = torch.zeros(1, 3, 21, 21)
    images[:, :, 10, 10] = 1
    sigma = torch.tensor([[0.1, 0.7, 2.2]])[:, :, None].expand(-1, -1, 2)
    reached = (gaussian_blur(images, sigma)[0, :, 10, 10:] > 0).sum(-1) - 1
    assert reached.tolist() == [0, 3, 9]


CASES = {
    "gaussian": lambda x: gaussian_blur(x, 0.3 + 0.4 * per_plane(x, 0, 3)[:, :, None].expand(-1, -1, 2)),
    "reflected gaussian": lambda x: gaussian_blur(
        x,
        1 + per_plane(x, 0, 1)[:, :, None].expand(-1, -1, 2),
        1 + per_plane(x, 0, 4)[:, :, None].expand(-1, -1, 2),
        "reflect",
    ),
    "disk mean": lambda x: disk_mean(x, per_plane(x, 0, 4)),
    "disk median": lambda x: disk_median(x, per_plane(x, 0, 4)),
    "box median": lambda x: box_median(x, 2 * per_plane(x, 0, 3)[:, :, None].expand(-1, -1, 2) + 1),
    "bilateral": lambda x: bilateral_mean(x, per_plane(x, 0, 6), 0.03 * per_plane(x, 5, 9), 0.02 * per_plane(x, 5, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    images = random_images(2, 2, 7, 9).requires_grad_()
    assert torch.autograd.gradcheck(CASES[name], images)


@pytest.mark.parametrize("name", CASES)
def test_blocks_and_memory_layout_change_nothing(name, monkeypatch):
    images = random_images(3, 3, 31, 17, dtype=torch.float32)
    weights = random_images(3, 3, 17, 1).float()

    def run(source):
        source = source.detach().requires_grad_()
        out = CASES[name](source.transpose(2, 3))
        first, second = (torch.autograd.grad(out, source, weights.expand_as(out), retain_graph=True) for _ in range(2))
        assert torch.equal(first[0], second[0])
        return out, first[0]

    expected = run(images)
    monkeypatch.setattr(sheets, "_BLOCK", 200)
    monkeypatch.setattr(sheets, "_FEW", 1)
    turned = images.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    for got, want in zip(run(turned), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_planes_stay_as_they_are(name, level):
    images = torch.full((2, 3, 16, 18), level)
    out = CASES[name](images)
    if name == "box median":
        out, images = out[:, :, 3:-3, 3:-3], images[:, :, 3:-3, 3:-3]
    assert torch.equal(out, images)


def test_ties_go_to_the_first_in_raster_order():
    images = torch.full((1, 1, 5, 5), 0.5, requires_grad=True)
    disk_median(images, torch.tensor([[1]]))[0, 0, 2, 2].backward()
    assert images.grad.nonzero().tolist() == [[0, 0, 1, 2]]
    images.grad = None
    disk_median(images, torch.tensor([[1]]))[0, 0, 0, 0].backward()
    assert images.grad.nonzero().tolist() == [[0, 0, 0, 0]]


def test_zeros_outside_take_no_gradient():
    images = torch.ones(1, 1, 9, 9, requires_grad=True)
    out = box_median(images, torch.tensor([[[5, 5]]]))
    assert out[0, 0, 0, 0] == 0
    assert torch.autograd.grad(out.sum(), images)[0].sum() == (out == 1).sum()


def test_bilateral_bounds_are_strict():
    images = torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3)
    out = bilateral_mean(images, torch.tensor([[1]]), torch.tensor([[0.26]]), torch.tensor([[0.24]]))
    assert out.flatten().tolist() == [0.25, 0.375, 0.625]


def test_disk():
    assert disk(0) == (0,)
    assert disk(2) == (0, 1, 2, 1, 0)
    assert [sum(2 * half + 1 for half in disk(radius)) for radius in (5, 20)] == [81, 1257]


def test_a_mirror_wider_than_the_image_is_refused():
    images = random_images(1, 1, 6, 20)
    with pytest.raises(InputError, match="mirrored border of 6 pixels"):
        gaussian_blur(images, torch.ones(1, 1, 2), torch.full((1, 1, 2), 6), "reflect")
