"""Pointwise colour operations: shifts in HSV, LAB, XYZ and YUV, and a 3 × 3 colour matrix for each image."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

from cannonade.kernels.backend import Backend, choose
from cannonade.kernels.device.pointwise import shift_colours

Matrix = Sequence[Sequence[float]]
Curve = Callable[[Tensor], Tensor]

# scikit-image's constants: sRGB primaries with a D65 white, and BT.601 with analogue U and V.
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_YUV_FROM_RGB = ((0.299, 0.587, 0.114), (-0.14714119, -0.28886916, 0.43601035), (0.61497538, -0.51496512, -0.10001026))
_WHITE = (0.95047, 1.0, 1.08883)


def _inverse(matrix: Matrix) -> Matrix:
    rows: list[list[float]] = torch.tensor(matrix, dtype=torch.float64).inverse().tolist()
    return rows


_RGB_FROM_XYZ = _inverse(_XYZ_FROM_RGB)
_RGB_FROM_YUV = _inverse(_YUV_FROM_RGB)

# What native code is told: the matrices there and back, and the white.
_LAB_CONSTANTS = [*chain(*_XYZ_FROM_RGB, *_RGB_FROM_XYZ), *_WHITE]
_YUV_CONSTANTS = [*chain(*_YUV_FROM_RGB, *_RGB_FROM_YUV), *_WHITE]
_NO_MATRICES = [0.0] * len(_YUV_CONSTANTS)

# A chroma or value of 2⁻²⁰ or less is rounding noise of float32. Such pixels count as grey, or black: their hue, or
# saturation, means nothing, and its gradient of 1/chroma would drown that of all other pixels.
_NOISE = 2.0**-20


class _Clip(torch.autograd.Function):
    """Clipping that passes the gradient where it changed nothing, the bounds included."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ((x >= ctx.low) & (x <= ctx.high)), None, None


def clip(x: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """`torch.clamp` with gradient 1 on [low, high], bounds included.

    From PyTorch 2.14 on, `torch.clamp` has gradient 0 at the bounds, where a photo's black and white lie: a chain of
    transforms that clips would never move them.
    """
    out: Tensor = _Clip.apply(x, low, high)
    return out


def _native(images: Tensor, backend: Backend) -> bool:
    return choose(backend, images, native=images.dtype == torch.float32) == "native"


def _shifted(images: Tensor, shift: Tensor, constants: list[float], space: int) -> Tensor:
    out: Tensor = shift_colours(images, shift.to(images.dtype), constants, space)
    return out


def colour_matrix(images: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the colour of every pixel by the matrix of its image.

    Written out instead of a matrix product, so that it is never computed in TF32 and never depends on the batch.

    Args:
        images: [N, 3, H, W].
        matrix: [N, 3, 3], row = channel of the result. No gradient goes to it.

    Returns:
        [N, 3, H, W], not clamped.
    """
    columns = matrix.to(images.dtype)[..., None, None].unbind(2)
    red, green, blue = images.unbind(1)
    return columns[0] * red[:, None] + columns[1] * green[:, None] + columns[2] * blue[:, None]


def hsv_from_rgb(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in turns, [0, 1), saturation and value of each pixel, as `skimage.color.rgb2hsv`.

    The hue of a grey pixel and the saturation of a black one are 0 with zero gradient; both are meant to 2⁻²⁰.
    Where two channels are the largest, the gradient of the value is shared between them.

    Args:
        images: [N, 3, H, W] in [0, 1].

    Returns:
        Three tensors [N, H, W] in [0, 1].
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    is_blue, is_green, is_coloured = blue == value, green == value, chroma > _NOISE
    difference = torch.where(is_blue, red - green, torch.where(is_green, blue - red, green - blue))
    # The sextant's number as one scaled mask plus another: cheaper than a second chain of `where`.
    sextant = 4.0 * is_blue.to(images.dtype) + 2.0 * (is_green & ~is_blue).to(images.dtype)
    hue = (difference / torch.where(is_coloured, chroma, 1.0) + sextant) / 6.0 % 1.0
    saturation = chroma / torch.where(value > _NOISE, value, 1.0)
    return torch.where(is_coloured, hue, 0.0), saturation, value


def rgb_from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The colour of hue (turns, [0, 1]), saturation and value ([0, 1]), as `skimage.color.hsv2rgb`.

    A channel is V·(1 − S·c), where c rises from 0 to 1 and falls again over four sextants of the hue.

    Args:
        hue, saturation, value: [N, H, W].

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    sextants = hue * 6.0
    chroma = value * saturation
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = (sextants + offset) % 6.0
        channels.append(value - chroma * torch.minimum(place, 4.0 - place).clamp(0, 1))
    return torch.stack(channels, dim=1)


def shift_hsv(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to hue (turns), saturation and value, each clipped to [0, 1]: as published, the hue does not wrap.

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3].
        backend: "auto", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    if _native(images, backend):
        return _shifted(images, shift, _NO_MATRICES, 0)
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    moved = [clip(part + by) for part, by in zip(hsv_from_rgb(images), shifts, strict=True)]
    return rgb_from_hsv(*moved)


def shift_lab(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to L, a and b of CIE LAB (D65, 2°); L is clipped to [0, 100], the other two are not.

    As in `skimage.color.lab2rgb`, a negative Z is taken as 0 and the result clipped.

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3], in LAB's units.
        backend: "auto", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    if _native(images, backend):
        return _shifted(images, shift, _LAB_CONSTANTS, 1)
    lightness, a, b = shift.to(images.dtype)[..., None, None].unbind(1)
    xyz = _xyz_from_rgb(images)
    fx, fy, fz = (_curve(part / white, _lab, _lab_slope) for part, white in zip(xyz, _WHITE, strict=True))
    moved_fy = (clip(116.0 * fy - 16.0 + lightness, 0.0, 100.0) + 16.0) / 116.0
    moved_fx = fx - fy + a / 500.0 + moved_fy
    moved_fz = (fz - fy - b / 200.0 + moved_fy).clamp(min=0)
    parts = (moved_fx, moved_fy, moved_fz)
    return _rgb_from_xyz([_curve(part, _cube, _cube_slope) * white for part, white in zip(parts, _WHITE, strict=True)])


def shift_xyz(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to X, Y and Z of CIE XYZ, each clipped to [0, 1] as published (which cuts Z of white, 1.089).

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3].
        backend: "auto", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    if _native(images, backend):
        return _shifted(images, shift, _LAB_CONSTANTS, 2)
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    xyz = _xyz_from_rgb(images)
    return _rgb_from_xyz([clip(part + by) for part, by in zip(xyz, shifts, strict=True)])


def shift_yuv(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to Y, U and V; Y is clipped to [0, 1], the other two, which may be negative, are not.

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3].
        backend: "auto", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    if _native(images, backend):
        return _shifted(images, shift, _YUV_CONSTANTS, 3)
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    luma, u, v = (part + by for part, by in zip(_linear(images, _YUV_FROM_RGB), shifts, strict=True))
    return clip(torch.stack(_linear(torch.stack((clip(luma), u, v), dim=1), _RGB_FROM_YUV), dim=1))


def _linear(images: Tensor, matrix: Matrix) -> list[Tensor]:
    """The three channels [N, H, W] of matrix · colour: Python numbers, so that no device waits for constants."""
    red, green, blue = images.unbind(1)
    return [(red * row[0]).add(green, alpha=row[1]).add(blue, alpha=row[2]) for row in matrix]


def _xyz_from_rgb(images: Tensor) -> list[Tensor]:
    return _linear(_curve(images, rgb_to_linear_rgb, _decode_slope), _XYZ_FROM_RGB)


def _rgb_from_xyz(parts: list[Tensor]) -> Tensor:
    linear = torch.stack(_linear(torch.stack(parts, dim=1), _RGB_FROM_XYZ), dim=1)
    return clip(_curve(linear, linear_rgb_to_rgb, _encode_slope))


class _Curve(torch.autograd.Function):
    """A function of each value whose slope backward computes again: it keeps its input alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Curve, slope: Curve) -> Tensor:
        return value(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Curve, Curve], output: Tensor) -> None:
        x, _, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.slope(*ctx.saved_tensors), None, None


def _curve(x: Tensor, value: Curve, slope: Curve) -> Tensor:
    out: Tensor = _Curve.apply(x, value, slope)
    return out


def _decode_slope(x: Tensor) -> Tensor:
    """Slope of sRGB to linear light. In all these a power never sees the linear foot, where it is unbounded."""
    return torch.where(x > 0.04045, ((x + 0.055).clamp(min=0) / 1.055) ** 1.4 * (2.4 / 1.055), 1 / 12.92)


def _encode_slope(x: Tensor) -> Tensor:
    """Slope of linear light to sRGB."""
    return torch.where(x > 0.0031308, x.clamp(min=0.0031308) ** (1 / 2.4 - 1) * (1.055 / 2.4), 12.92)


def _lab(x: Tensor) -> Tensor:
    """CIE's cube root with a linear foot."""
    return torch.where(x > 0.008856, x.clamp(min=0.008856) ** (1 / 3), 7.787 * x + 16 / 116)


def _lab_slope(x: Tensor) -> Tensor:
    return torch.where(x > 0.008856, x.clamp(min=0.008856) ** (-2 / 3) / 3, 7.787)


def _cube(x: Tensor) -> Tensor:
    """The inverse of `_lab`, with scikit-image's rounded threshold."""
    return torch.where(x > 0.2068966, x * x * x, (x - 16 / 116) / 7.787)


def _cube_slope(x: Tensor) -> Tensor:
    return torch.where(x > 0.2068966, 3 * x * x, 1 / 7.787)
