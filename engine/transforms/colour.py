"""BaRT group 7: shifts in other colour spaces."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.kernels.device.pointwise import Operation
from cannonade.kernels.pointwise import shift_hsv, shift_lab, shift_xyz, shift_yuv
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_range

Range = tuple[float, float]


def _draw(draws: Draws, *ranges: Range) -> Params:
    """`shift`: [N, 3] float32, one uniform number for each coordinate."""
    low, high = (torch.tensor(ends, device=draws.images.device) for ends in zip(*ranges, strict=True))
    return {"shift": draws.site(0).uniform(low, high, (3,))}


class _Shift(Transform):
    """What the four have in common."""

    gradient: ClassVar[Gradient] = Gradient.EXACT
    in_slices = "without native code"

    def operation_parameters(self, params: Params) -> Tensor:
        """The shift."""
        return params["shift"]


@dataclass(frozen=True, kw_only=True)
class HsvShift(_Shift):
    """Add to hue, saturation and value, and clip each to [0, 1].

    Gradient: exact, the zeros of the clips included. Pixels grey to 2⁻²⁰ pass none through the hue.

    Source: Raff et al., CVPR 2019, group 7, where the hue is clipped as well, not wrapped.

    Attributes:
        hue: ends of the shift in turns.
        saturation, value: ends of the shifts.
    """

    operation = Operation.HSV

    hue: Range = (-0.05, 0.05)
    saturation: Range = (-0.25, 0.25)
    value: Range = (-0.25, 0.25)

    def __post_init__(self) -> None:
        check_range("HsvShift: hue", *self.hue, least=-1.0, most=1.0)
        check_range("HsvShift: saturation", *self.saturation, least=-1.0, most=1.0)
        check_range("HsvShift: value", *self.value, least=-1.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `shift`: [N, 3] float32, of hue (turns), saturation and value."""
        return _draw(draws, self.hue, self.saturation, self.value)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Shift each image in HSV."""
        return shift_hsv(images, params["shift"])


@dataclass(frozen=True, kw_only=True)
class LabShift(_Shift):
    """Add to L, a and b of CIE LAB (D65), and clip L to [0, 100].

    Gradient: exact, the zeros of the clips included.

    Source: Raff et al., CVPR 2019, group 7.

    Attributes:
        lightness: ends of the shift of L.
        a, b: ends of the shifts of the two chroma coordinates.
    """

    operation = Operation.LAB

    lightness: Range = (-5.0, 5.0)
    a: Range = (-2.0, 2.0)
    b: Range = (-2.0, 2.0)

    def __post_init__(self) -> None:
        check_range("LabShift: lightness", *self.lightness, least=-100.0, most=100.0)
        check_range("LabShift: a", *self.a, least=-256.0, most=256.0)
        check_range("LabShift: b", *self.b, least=-256.0, most=256.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `shift`: [N, 3] float32, of L, a and b."""
        return _draw(draws, self.lightness, self.a, self.b)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Shift each image in LAB."""
        return shift_lab(images, params["shift"])


@dataclass(frozen=True, kw_only=True)
class XyzShift(_Shift):
    """Add to X, Y and Z of CIE XYZ, and clip each to [0, 1].

    Gradient: exact, the zeros of the clips included.

    Source: Raff et al., CVPR 2019, group 7. The clip cuts Z of white, which is 1.089: as published.

    Attributes:
        x, y, z: ends of the shifts.
    """

    operation = Operation.XYZ

    x: Range = (-0.05, 0.05)
    y: Range = (-0.05, 0.05)
    z: Range = (-0.05, 0.05)

    def __post_init__(self) -> None:
        for name, ends in (("x", self.x), ("y", self.y), ("z", self.z)):
            check_range(f"XyzShift: {name}", *ends, least=-1.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `shift`: [N, 3] float32, of X, Y and Z."""
        return _draw(draws, self.x, self.y, self.z)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Shift each image in XYZ."""
        return shift_xyz(images, params["shift"])


@dataclass(frozen=True, kw_only=True)
class YuvShift(_Shift):
    """Add to Y, U and V, and clip Y to [0, 1].

    Gradient: exact, the zeros of the clips included.

    Source: Raff et al., CVPR 2019, group 7.

    Attributes:
        luma: ends of the shift of Y.
        u, v: ends of the shifts of the two chroma coordinates.
    """

    operation = Operation.YUV

    luma: Range = (-0.05, 0.05)
    u: Range = (-0.02, 0.02)
    v: Range = (-0.02, 0.02)

    def __post_init__(self) -> None:
        for name, ends in (("luma", self.luma), ("u", self.u), ("v", self.v)):
            check_range(f"YuvShift: {name}", *ends, least=-1.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `shift`: [N, 3] float32, of Y, U and V."""
        return _draw(draws, self.luma, self.u, self.v)

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Shift each image in YUV."""
        return shift_yuv(images, params["shift"])
