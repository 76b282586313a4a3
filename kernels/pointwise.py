"""Pointwise colour operations: shifts in HSV, LAB, XYZ and YUV, a 3 × 3 colour matrix for each image, and rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.colours import (
    NOISE,
    RGB_FROM_XYZ,
    RGB_FROM_YUV,
    WHITE,
    XYZ_FROM_RGB,
    YUV_FROM_RGB,
    Matrix,
)
from cannonade.kernels.device.pointwise import Operation, pointwise, pointwise_adjoint_into, pointwise_into
from cannonade.kernels.device.rows import Rows, Step

Curve = Callable[[Tensor], Tensor]


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


class _Saturate(torch.autograd.Function):
    """Clamping to [0, 1] that passes every gradient: for what leaves it by rounding alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def _compiled(images: Tensor, parameters: Tensor, operation: Operation, backend: Backend) -> Tensor | None:
    """What another route than PyTorch makes of the images; None where PyTorch is the one to take."""
    native = operation <= Operation.YUV and images.dtype == torch.float32
    chosen = choose(backend, images, native=native, on_gpu=images.dtype in NARROW)
    if chosen == "torch":
        return None
    out: Tensor = pointwise(images, parameters.float().flatten(1), int(operation), chosen)
    return out


def colour_matrix(images: Tensor, matrix: Tensor, backend: Backend = "auto") -> Tensor:
    """Multiply the colour of every pixel by the matrix of its image.

    Written out instead of a matrix product, so that it is never computed in TF32 and never depends on the batch.

    Args:
        images: [N, 3, H, W].
        matrix: [N, 3, 3], row = channel of the result. No gradient goes to it.
        backend: "auto", "triton" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W], not clamped.
    """
    compiled = _compiled(images, matrix, Operation.MATRIX, backend)
    return _multiplied(images, matrix) if compiled is None else compiled


def mix_channels(images: Tensor, matrix: Tensor, backend: Backend = "auto") -> Tensor:
    """`colour_matrix` of weighted means, clamped to [0, 1].

    A mean leaves [0, 1] by rounding alone, so the clamp does not cut the gradient of white.

    Args:
        images: [N, 3, H, W] in [0, 1].
        matrix: [N, 3, 3] of rows that sum to 1. No gradient goes to it.
        backend: "auto", "triton" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1], with the gradient of the product.
    """
    compiled = _compiled(images, matrix, Operation.MIX, backend)
    if compiled is not None:
        return compiled
    out: Tensor = _Saturate.apply(_multiplied(images, matrix))
    return out


def round_colours(images: Tensor, scale: Tensor, backend: Backend = "auto") -> Tensor:
    """Round each channel x to a multiple of 1/scale: round(x·scale)/scale, half to even.

    Args:
        images: [N, 3, H, W]. No gradient goes to it: that of a rounding is zero almost everywhere.
        scale: [N, 3].
        backend: "auto", "triton" or "torch"; of the same bits.

    Returns:
        [N, 3, H, W].
    """
    images = images.detach()
    compiled = _compiled(images, scale, Operation.ROUND, backend)
    if compiled is not None:
        return compiled
    scales = scale.to(images.dtype)[..., None, None]
    return (images * scales).round_().div_(scales)


def _multiplied(images: Tensor, matrix: Tensor) -> Tensor:
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
    is_blue, is_green, is_coloured = blue == value, green == value, chroma > NOISE
    difference = torch.where(is_blue, red - green, torch.where(is_green, blue - red, green - blue))
    # The sextant's number as one scaled mask plus another: cheaper than a second chain of `where`.
    sextant = 4.0 * is_blue.to(images.dtype) + 2.0 * (is_green & ~is_blue).to(images.dtype)
    hue = (difference / torch.where(is_coloured, chroma, 1.0) + sextant) / 6.0 % 1.0
    saturation = chroma / torch.where(value > NOISE, value, 1.0)
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
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    compiled = _compiled(images, shift, Operation.HSV, backend)
    if compiled is not None:
        return compiled
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    moved = [clip(part + by) for part, by in zip(hsv_from_rgb(images), shifts, strict=True)]
    return rgb_from_hsv(*moved)


def shift_lab(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to L, a and b of CIE LAB (D65, 2°); L is clipped to [0, 100], the other two are not.

    As in `skimage.color.lab2rgb`, a negative Z is taken as 0 and the result clipped.

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3], in LAB's units.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    compiled = _compiled(images, shift, Operation.LAB, backend)
    if compiled is not None:
        return compiled
    lightness, a, b = shift.to(images.dtype)[..., None, None].unbind(1)
    xyz = _xyz_from_rgb(images)
    fx, fy, fz = (_curve(part / white, _lab, _lab_slope) for part, white in zip(xyz, WHITE, strict=True))
    moved_fy = (clip(116.0 * fy - 16.0 + lightness, 0.0, 100.0) + 16.0) / 116.0
    moved_fx = fx - fy + a / 500.0 + moved_fy
    moved_fz = (fz - fy - b / 200.0 + moved_fy).clamp(min=0)
    parts = (moved_fx, moved_fy, moved_fz)
    return _rgb_from_xyz([_curve(part, _cube, _cube_slope) * white for part, white in zip(parts, WHITE, strict=True)])


def shift_xyz(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to X, Y and Z of CIE XYZ, each clipped to [0, 1] as published (which cuts Z of white, 1.089).

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3].
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    compiled = _compiled(images, shift, Operation.XYZ, backend)
    if compiled is not None:
        return compiled
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    xyz = _xyz_from_rgb(images)
    return _rgb_from_xyz([clip(part + by) for part, by in zip(xyz, shifts, strict=True)])


def shift_yuv(images: Tensor, shift: Tensor, backend: Backend = "auto") -> Tensor:
    """Add to Y, U and V; Y is clipped to [0, 1], the other two, which may be negative, are not.

    Args:
        images: [N, 3, H, W] in [0, 1].
        shift: [N, 3].
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    compiled = _compiled(images, shift, Operation.YUV, backend)
    if compiled is not None:
        return compiled
    shifts = shift.to(images.dtype)[..., None, None].unbind(1)
    luma, u, v = (part + by for part, by in zip(_linear(images, YUV_FROM_RGB), shifts, strict=True))
    return clip(torch.stack(_linear(torch.stack((clip(luma), u, v), dim=1), RGB_FROM_YUV), dim=1))


def pointwise_step(operations: Tensor, parameters: Tensor, clamp: bool) -> Step:
    """Each image's own list of operations, by launchers, in one pass.

    Args:
        operations: [M, L], `Operation`s in their order and −1 for none, a row for each image of a launch.
        parameters: [M, L, P], as the functions of this file take them, matrices row by row; P at least 3.
        clamp: clip to [0, 1] after each operation.
    """

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        pointwise_into(out, images, operations, parameters, clamp)
        return ()

    def backward(to: Rows, grad: Rows, images: Rows) -> None:
        pointwise_adjoint_into(to, grad, images, operations, parameters, clamp)

    return Step(forward, backward)


def _linear(images: Tensor, matrix: Matrix) -> list[Tensor]:
    """The three channels [N, H, W] of matrix · colour: Python numbers, so that no device waits for constants."""
    red, green, blue = images.unbind(1)
    return [(red * row[0]).add(green, alpha=row[1]).add(blue, alpha=row[2]) for row in matrix]


def _xyz_from_rgb(images: Tensor) -> list[Tensor]:
    from kornia.color import rgb_to_linear_rgb

    return _linear(_curve(images, rgb_to_linear_rgb, _decode_slope), XYZ_FROM_RGB)


def _rgb_from_xyz(parts: list[Tensor]) -> Tensor:
    from kornia.color import linear_rgb_to_rgb

    linear = torch.stack(_linear(torch.stack(parts, dim=1), RGB_FROM_XYZ), dim=1)
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
