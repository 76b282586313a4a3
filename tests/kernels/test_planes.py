"""Pixels to planes: native code and NumPy give the bits of PyTorch's division."""

import pytest
import torch

from cannonade.kernels import native
from cannonade.kernels.planes import fill_planes


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.native), False])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sides", [(1, 1), (5, 7), (16, 256), (3, 133)])
def test_planes_are_the_pixels_over_255(compiled, mirrored, sides, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: compiled)
    pixels = torch.randint(256, (*sides, 3), dtype=torch.uint8)
    guarded = torch.full((5, *sides), -1.0)
    fill_planes(guarded[1:4], pixels, mirrored)
    expected = pixels.permute(2, 0, 1).float() / 255
    assert torch.equal(guarded[1:4], expected.flip(2) if mirrored else expected)
    assert (guarded[[0, 4]] == -1).all()


def test_pixels_of_any_strides():
    pixels, out = torch.randint(256, (3, 8, 9), dtype=torch.uint8), torch.empty(3, 8, 9)
    fill_planes(out, pixels.permute(1, 2, 0), False)
    assert torch.equal(out, pixels.float() / 255)
