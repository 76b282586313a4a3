"""Seam carving: which pixels go, on ties too, and that images of one batch do not meet."""

import pytest
import torch

from cannonade.bench.oracles.zoom import _carved
from cannonade.kernels.seams import carve


def integers(*values):
    return torch.tensor(values)


def noise(count=4, height=17, width=31):
    return torch.rand(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def inside(carved, box, row):
    return carved[row, :, int(box.top[row]) :, int(box.left[row]) :]


def test_carves_as_one_image_at_a_time():
    x = noise()
    carved, box = carve(x, integers(0, 9, 4, 7), integers(5, 0, 6, 1))
    for row in range(len(x)):
        expected = _carved(x[row].permute(1, 2, 0).numpy(), int(box.left[row]))
        expected = _carved(expected.transpose(1, 0, 2), int(box.top[row])).transpose(1, 0, 2)
        assert torch.equal(inside(carved, box, row), torch.from_numpy(expected.copy()).permute(2, 0, 1))


def test_batch_equals_single_images():
    x, vertical, horizontal = noise(), integers(0, 9, 4, 7), integers(5, 0, 6, 1)
    carved, _ = carve(x, vertical, horizontal)
    for row in range(len(x)):
        one = slice(row, row + 1)
        assert torch.equal(carve(x[one], vertical[one], horizontal[one])[0], carved[one])


def test_leftmost_of_equal_seams_goes():
    x = torch.linspace(0, 1, 20, dtype=torch.float64).expand(1, 3, 16, 20).clone()
    flat = x.new_full((1, 3, 16, 20), 0.4) + torch.arange(320).reshape(16, 20) * 1e-12  # marked below the energy's unit
    carved, box = carve(flat, integers(3), integers(2))
    assert torch.equal(inside(carved, box, 0), flat[0, :, 2:, 3:])
    carved, box = carve(x, integers(1), integers(0))
    assert torch.equal(inside(carved, box, 0), x[0, :, :, 1:])  # both edges have half the energy of the inside


def test_least_energy_goes_first():
    x = noise(1)
    x[..., 12:17] = 0.5  # its three inner columns have no energy
    carved, box = carve(x, integers(3), integers(0))
    expected = torch.cat((x[0, :, :, :13], x[0, :, :, 16:]), dim=2)
    assert torch.equal(inside(carved, box, 0), expected)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_image_stays_finite(level):
    carved, _ = carve(torch.full((2, 3, 16, 16), level), integers(3, 0), integers(0, 3))
    assert torch.equal(carved, torch.full((2, 3, 16, 16), level))


def test_seams_are_constants_of_the_gradient():
    x = noise(2, 9, 12).requires_grad_()
    torch.autograd.gradcheck(lambda y: carve(y, integers(3, 0), integers(2, 4))[0], x, fast_mode=True)
    carved, box = carve(x, integers(3, 0), integers(2, 4))
    kept = sum(inside(carved, box, row).sum() for row in range(2))
    (gradient,) = torch.autograd.grad(kept, x)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}
    assert gradient[0].sum() == 3 * 7 * 9


def test_empty_batch_and_no_seams():
    carved, box = carve(noise(0), integers().long(), integers().long())
    assert carved.shape == (0, 3, 17, 31)
    x = noise(2)
    carved, box = carve(x, integers(0, 0), integers(0, 0))
    assert torch.equal(carved, x)
    assert box.width.tolist() == [31, 31]
