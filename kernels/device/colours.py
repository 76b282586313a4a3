"""The formulas of colours, for kernels: shifts in HSV, LAB, XYZ and YUV, matrices, rounding, and their adjoints.

A colour is a tuple of three tensors, one a channel. `cannonade.kernels.pointwise` defines what these compute.
"""

from __future__ import annotations

from typing import Any

import torch

from cannonade.kernels.backend import jit, tl

Matrix = tuple[tuple[float, float, float], ...]

# scikit-image's constants: sRGB primaries with a D65 white, and BT.601 with analogue U and V.
XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
YUV_FROM_RGB = ((0.299, 0.587, 0.114), (-0.14714119, -0.28886916, 0.43601035), (0.61497538, -0.51496512, -0.10001026))
WHITE = (0.95047, 1.0, 1.08883)


def inverse(matrix: Matrix) -> Matrix:
    """Of 3 × 3 numbers, in float64."""
    return tuple((row[0], row[1], row[2]) for row in torch.tensor(matrix, dtype=torch.float64).inverse().tolist())


RGB_FROM_XYZ = inverse(XYZ_FROM_RGB)
RGB_FROM_YUV = inverse(YUV_FROM_RGB)

# A chroma or value of 2⁻²⁰ or less is rounding noise of float32. Such pixels count as grey, or black: their hue, or
# saturation, means nothing, and its gradient of 1/chroma would drown that of all other pixels.
NOISE = 2.0**-20


def constant(value: Any) -> Any:
    """What kernels may read; where Triton is not installed, the value as it is."""
    return value if tl is None else tl.constexpr(value)


_XYZ_FROM_RGB, _RGB_FROM_XYZ = constant(XYZ_FROM_RGB), constant(RGB_FROM_XYZ)
_YUV_FROM_RGB, _RGB_FROM_YUV = constant(YUV_FROM_RGB), constant(RGB_FROM_YUV)
_WHITE, _NOISE = constant(WHITE), constant(NOISE)


@jit
def each(FUNCTION: tl.constexpr, x: tl.tuple) -> Any:
    """A function of each channel."""
    return FUNCTION(x[0]), FUNCTION(x[1]), FUNCTION(x[2])


@jit
def _through(SLOPE: tl.constexpr, grad: tl.tuple, x: tl.tuple) -> Any:
    """The gradient before a curve from that after it."""
    return grad[0] * SLOPE(x[0]), grad[1] * SLOPE(x[1]), grad[2] * SLOPE(x[2])


@jit
def times(m: tl.tuple, x: tl.tuple) -> Any:
    """A matrix, as rows, times a colour."""
    return (
        m[0][0] * x[0] + m[0][1] * x[1] + m[0][2] * x[2],
        m[1][0] * x[0] + m[1][1] * x[1] + m[1][2] * x[2],
        m[2][0] * x[0] + m[2][1] * x[1] + m[2][2] * x[2],
    )


@jit
def transposed_times(m: tl.tuple, x: tl.tuple) -> Any:
    """The adjoint of `times`."""
    return (
        m[0][0] * x[0] + m[1][0] * x[1] + m[2][0] * x[2],
        m[0][1] * x[0] + m[1][1] * x[1] + m[2][1] * x[2],
        m[0][2] * x[0] + m[1][2] * x[1] + m[2][2] * x[2],
    )


@jit
def _plus(x: tl.tuple, y: tl.tuple) -> Any:
    return x[0] + y[0], x[1] + y[1], x[2] + y[2]


@jit
def _scaled(x: tl.tuple, by: tl.tuple) -> Any:
    return x[0] * by[0], x[1] * by[1], x[2] * by[2]


@jit
def _over_white(x: tl.tuple) -> Any:
    return x[0] * (1.0 / _WHITE[0]), x[1] * (1.0 / _WHITE[1]), x[2] * (1.0 / _WHITE[2])


@jit
def clip(x: tl.tensor) -> Any:
    """Clip to [0, 1]."""
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@jit
def _passed(grad: tl.tensor, x: tl.tensor) -> Any:
    """The gradient that passes a clip: all of it where the clip changed nothing, the bounds included."""
    return tl.where((x >= 0.0) & (x <= 1.0), grad, 0.0)


@jit
def passed_all(grad: tl.tuple, x: tl.tuple) -> Any:
    """The adjoint of `clip` on a colour x."""
    return _passed(grad[0], x[0]), _passed(grad[1], x[1]), _passed(grad[2], x[2])


@jit
def _product(x: tl.tensor, y: tl.tensor) -> Any:
    """x·y, rounded before anything is added to it: compilers do not fuse a sum with an explicit fused operation."""
    return tl.fma(x, y, 0.0)


@jit
def _power(x: tl.tensor, exponent: tl.constexpr) -> Any:
    return tl.exp2(exponent * tl.log2(x))


# Curves and their slopes. A power never sees the linear foot, where it is unbounded.
@jit
def _decode(x: tl.tensor) -> Any:
    """From sRGB to linear light."""
    base = tl.maximum(x + 0.055, 0.09) * (1 / 1.055)
    return tl.where(x > 0.04045, _power(base, 2.4), x * (1 / 12.92))


@jit
def _decode_slope(x: tl.tensor) -> Any:
    base = tl.maximum(x + 0.055, 0.09) * (1 / 1.055)
    return tl.where(x > 0.04045, _power(base, 1.4) * (2.4 / 1.055), 1 / 12.92)


@jit
def _encode(x: tl.tensor) -> Any:
    """From linear light to sRGB."""
    return tl.where(x > 0.0031308, 1.055 * _power(tl.maximum(x, 0.0031308), 1 / 2.4) - 0.055, 12.92 * x)


@jit
def _encode_slope(x: tl.tensor) -> Any:
    return tl.where(x > 0.0031308, _power(tl.maximum(x, 0.0031308), 1 / 2.4 - 1) * (1.055 / 2.4), 12.92)


@jit
def _root(x: tl.tensor) -> Any:
    """CIE's cube root with a linear foot."""
    return tl.where(x > 0.008856, _power(tl.maximum(x, 0.008856), 1 / 3), 7.787 * x + 16 / 116)


@jit
def _root_slope(x: tl.tensor) -> Any:
    return tl.where(x > 0.008856, _power(tl.maximum(x, 0.008856), -2 / 3) * (1 / 3), 7.787)


@jit
def _cube(x: tl.tensor) -> Any:
    """The inverse of `_root`, with scikit-image's rounded threshold."""
    return tl.where(x > 0.2068966, x * x * x, (x - 16 / 116) * (1 / 7.787))


@jit
def _cube_slope(x: tl.tensor) -> Any:
    return tl.where(x > 0.2068966, 3 * x * x, 1 / 7.787)


@jit
def _hue_difference(x: tl.tuple, value: tl.tensor) -> Any:
    """The difference of channels that tells the hue within its sextants, and which the latter are: blue's, green's."""
    is_blue = x[2] == value
    is_green = (x[1] == value) & (x[2] != value)
    return tl.where(is_blue, x[0] - x[1], tl.where(is_green, x[2] - x[0], x[1] - x[2])), is_blue, is_green


@jit
def _extremes(x: tl.tuple) -> Any:
    return tl.maximum(tl.maximum(x[0], x[1]), x[2]), tl.minimum(tl.minimum(x[0], x[1]), x[2])


@jit
def _hsv_from_rgb(x: tl.tuple) -> Any:
    value, least = _extremes(x)
    difference, is_blue, is_green = _hue_difference(x, value)
    chroma = value - least
    coloured = chroma > _NOISE
    sextant = tl.where(is_blue, 4.0, tl.where(is_green, 2.0, 0.0))
    turn = tl.div_rn(tl.div_rn(difference, tl.where(coloured, chroma, 1.0)) + sextant, 6.0)
    hue = tl.where(coloured, tl.where(turn < 0.0, turn + 1.0, turn), 0.0)
    return hue, tl.div_rn(chroma, tl.where(value > _NOISE, value, 1.0)), value


@jit
def _rise(hue: tl.tensor, offset: tl.constexpr) -> Any:
    """How far a channel is below the value, in chromas, before it is clipped; and whether it falls with the hue."""
    place = _product(hue, 6.0) + offset
    place = tl.where(place >= 6.0, place - 6.0, place)
    return tl.minimum(place, 4.0 - place), place > 2.0


@jit
def _channel(hue: tl.tensor, chroma: tl.tensor, value: tl.tensor, offset: tl.constexpr) -> Any:
    return value - chroma * clip(_rise(hue, offset)[0])


@jit
def shift_hsv(x: tl.tuple, shift: tl.tuple) -> Any:
    """Add to hue, saturation and value, each clipped."""
    hue, saturation, value = each(clip, _plus(_hsv_from_rgb(x), shift))
    chroma = value * saturation
    return _channel(hue, chroma, value, 5.0), _channel(hue, chroma, value, 3.0), _channel(hue, chroma, value, 1.0)


@jit
def _channel_slope(grad: tl.tensor, hue: tl.tensor, offset: tl.constexpr) -> Any:
    """A channel's gradient times its share of the chroma, and times the slope of that share along the sextants."""
    rise, falls = _rise(hue, offset)
    slope = tl.where((rise > 0.0) & (rise < 1.0), tl.where(falls, -1.0, 1.0), 0.0)
    return grad * clip(rise), grad * slope


@jit
def _rgb_from_hsv_adjoint(grad: tl.tuple, hue: tl.tensor, saturation: tl.tensor, value: tl.tensor) -> Any:
    pull0, turn0 = _channel_slope(grad[0], hue, 5.0)
    pull1, turn1 = _channel_slope(grad[1], hue, 3.0)
    pull2, turn2 = _channel_slope(grad[2], hue, 1.0)
    pull, turn = pull0 + pull1 + pull2, turn0 + turn1 + turn2
    return -6.0 * value * saturation * turn, -value * pull, grad[0] + grad[1] + grad[2] - saturation * pull


@jit
def _shared(grad: tl.tensor, x: tl.tuple, extreme: tl.tensor) -> Any:
    """The gradient of an extreme, shared by the channels that attain it."""
    first = tl.where(x[0] == extreme, 1.0, 0.0)
    second = tl.where(x[1] == extreme, 1.0, 0.0)
    third = tl.where(x[2] == extreme, 1.0, 0.0)
    share = grad / (first + second + third)
    return first * share, second * share, third * share


@jit
def _hsv_from_rgb_adjoint(grad: tl.tuple, x: tl.tuple) -> Any:
    value, least = _extremes(x)
    difference, is_blue, is_green = _hue_difference(x, value)
    chroma = value - least
    coloured, bright = chroma > _NOISE, value > _NOISE
    width, height = tl.where(coloured, chroma, 1.0), tl.where(bright, value, 1.0)
    of_difference = tl.where(coloured, grad[0] * (1 / 6) / width, 0.0)
    of_chroma = grad[1] / height - of_difference * difference / width
    of_value = grad[2] + of_chroma - tl.where(bright, grad[1] * chroma / (height * height), 0.0)
    turned = (
        tl.where(is_blue, of_difference, tl.where(is_green, -of_difference, 0.0)),
        tl.where(is_blue, -of_difference, tl.where(is_green, 0.0, of_difference)),
        tl.where(is_blue, 0.0, tl.where(is_green, of_difference, -of_difference)),
    )
    return _plus(turned, _plus(_shared(of_value, x, value), _shared(-of_chroma, x, least)))


@jit
def shift_hsv_adjoint(grad: tl.tuple, x: tl.tuple, shift: tl.tuple) -> Any:
    """The adjoint of the slope of `shift_hsv` at x."""
    moved = _plus(_hsv_from_rgb(x), shift)
    hue, saturation, value = each(clip, moved)
    return _hsv_from_rgb_adjoint(passed_all(_rgb_from_hsv_adjoint(grad, hue, saturation, value), moved), x)


@jit
def _moved_lab(xyz: tl.tuple, shift: tl.tuple) -> Any:
    """Of a shift in LAB: XYZ over white, L and the root of Z before their clips, and all roots after."""
    share = _over_white(xyz)
    root = each(_root, share)
    lightness = 116.0 * root[1] - 16.0 + shift[0]
    y = (tl.minimum(tl.maximum(lightness, 0.0), 100.0) + 16.0) * (1 / 116)
    z = root[2] - root[1] - shift[2] * (1 / 200) + y
    return share, lightness, z, (root[0] - root[1] + shift[1] * (1 / 500) + y, y, tl.maximum(z, 0.0))


@jit
def _moved_lab_adjoint(grad: tl.tuple, xyz: tl.tuple, shift: tl.tuple) -> Any:
    share, lightness, z, moved = _moved_lab(xyz, shift)
    grad = _through(_cube_slope, _scaled(grad, _WHITE), moved)
    of_z = tl.where(z > 0.0, grad[2], 0.0)
    of_y = tl.where((lightness >= 0.0) & (lightness <= 100.0), grad[0] + grad[1] + of_z, 0.0)
    return _over_white(_through(_root_slope, (grad[0], of_y - grad[0] - of_z, of_z), share))


@jit
def _moved_linear(xyz: tl.tuple, shift: tl.tuple, is_lab: tl.tensor) -> Any:
    """Linear light of a colour shifted in LAB or in XYZ."""
    moved = each(clip, _plus(xyz, shift))
    if is_lab:
        moved = _scaled(each(_cube, _moved_lab(xyz, shift)[3]), _WHITE)
    return times(_RGB_FROM_XYZ, moved)


@jit
def shift_cie(x: tl.tuple, shift: tl.tuple, is_lab: tl.tensor) -> Any:
    """Add to L, a and b, or else to X, Y and Z, each clipped."""
    return each(clip, each(_encode, _moved_linear(times(_XYZ_FROM_RGB, each(_decode, x)), shift, is_lab)))


@jit
def shift_cie_adjoint(grad: tl.tuple, x: tl.tuple, shift: tl.tuple, is_lab: tl.tensor) -> Any:
    """The adjoint of the slope of `shift_cie` at x."""
    xyz = times(_XYZ_FROM_RGB, each(_decode, x))
    linear = _moved_linear(xyz, shift, is_lab)
    grad = _through(_encode_slope, passed_all(grad, each(_encode, linear)), linear)
    of_moved = transposed_times(_RGB_FROM_XYZ, grad)
    of_xyz = passed_all(of_moved, _plus(xyz, shift))
    if is_lab:
        of_xyz = _moved_lab_adjoint(of_moved, xyz, shift)
    return _through(_decode_slope, transposed_times(_XYZ_FROM_RGB, of_xyz), x)


@jit
def _moved_yuv(x: tl.tuple, shift: tl.tuple) -> Any:
    """The shifted luma before its clip, and the colour with all that is shifted, before its own."""
    y, u, v = _plus(times(_YUV_FROM_RGB, x), shift)
    return y, times(_RGB_FROM_YUV, (clip(y), u, v))


@jit
def shift_yuv(x: tl.tuple, shift: tl.tuple) -> Any:
    """Add to Y, clipped, U and V."""
    return each(clip, _moved_yuv(x, shift)[1])


@jit
def shift_yuv_adjoint(grad: tl.tuple, x: tl.tuple, shift: tl.tuple) -> Any:
    """The adjoint of the slope of `shift_yuv` at x."""
    luma, colour = _moved_yuv(x, shift)
    y, u, v = transposed_times(_RGB_FROM_YUV, passed_all(grad, colour))
    return transposed_times(_YUV_FROM_RGB, (_passed(y, luma), u, v))


@jit
def _rounded(x: tl.tensor, scale: tl.tensor) -> Any:
    """Round x·scale to the nearest integer, ties to even, by a sum that leaves no bits for fractions; over the scale."""
    product = _product(x, scale)
    size = tl.abs(product)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
    return tl.div_rn(tl.where(product < 0.0, -whole, whole), scale)


@jit
def rounded_all(x: tl.tuple, scale: tl.tuple) -> Any:
    """Round each channel to multiples of 1/scale."""
    return _rounded(x[0], scale[0]), _rounded(x[1], scale[1]), _rounded(x[2], scale[2])
