"""JPEG compression and decompression, bit for bit what libjpeg-turbo does, for a batch with one quality per image.

The slow-but-accurate integer DCT of libjpeg is linear up to the rounding that ends each pass, because no data path has
two multiplications. A pass is therefore a product with an 8×8 integer matrix and one rounding shift, and as all numbers
stay below 2^53 the product is exact in float64 in any order of summation: on every device, in every batch. Samples and
colour conversions stay below 2^24 and are exact in float32.
"""

from typing import Any

import torch
from torch import Tensor

from cannonade.errors import InputError
from cannonade.kernels.backend import NARROW, Backend, choose, constants
from cannonade.kernels.device.jpeg import DCT, jpeg_adjoint_into, jpeg_into, round_trip
from cannonade.kernels.device.rows import Rows, Step

# Annex K of the JPEG standard (ITU-T T.81), tables K.1 and K.2.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
# Colour conversion in 16-bit fixed point (jccolor.c, jdcolor.c): rows Y, Cb, Cr of R, G, B; then R, G, B of Cb, Cr.
_TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
_TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))
_ONE = 65536.0


def quantisation_tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """libjpeg's luma and chroma tables for a quality.

    Args:
        quality: [N] integers in 1 … 100.

    Returns:
        Two [N, 8, 8] int64 tensors with values in 1 … 255.
    """
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    luma, chroma = (
        ((constants(base, torch.int64, quality.device) * scale + 50) // 100).clamp(1, 255) for base in (_LUMA, _CHROMA)
    )
    return luma, chroma


def jpeg(images: Tensor, quality: Tensor, nearest: bool = False, backend: Backend = "auto") -> Tensor:
    """A JPEG round trip with 4:2:0 chroma, equal to Pillow's `save(quality=q)` and `open` on the 8-bit image.

    Backward is that of the continuous chain with every rounding straight-through: colour matrices, chroma averaging and
    triangle up-sampling, and the two clamps to 8 bits where they acted; DCT and inverse cancel. It does not depend on
    the quality otherwise.

    Args:
        images: [N, 3, H, W] in [0, 1], any float dtype; H, W ≥ 6.
        quality: [N] integers in 1 … 100.
        nearest: whether the 8-bit image is round(255·x) instead of ⌊255·x⌋.
        backend: "auto", "triton", "native" or "torch"; of the same bits, but for the gradient's rounding.

    Returns:
        [N, 3, H, W] of the same dtype, multiples of 1/255.

    Raises:
        InputError: an image side below 6 (libjpeg up-samples chroma of one or two columns in another way).

    Source: the JPEG standard ITU-T T.81 and libjpeg-turbo 3.
    """
    if min(images.shape[-2:]) < 6:
        raise InputError(
            f"jpeg: image sides must be at least 6 pixels, got {list(images.shape[-2:])}: resize the images"
        )
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        decoded: Tensor = round_trip(images, *quantisation_tables(quality), nearest, chosen)[0]
        return decoded
    out: Tensor = _Jpeg.apply(images, quality, nearest)
    return out


def jpeg_step(quality: Tensor, nearest: bool) -> Step:
    """`jpeg` by launchers."""
    tables = quantisation_tables(quality)

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        return jpeg_into(out, images, *tables, nearest)

    def backward(to: Rows, grad: Rows, images: Rows, *masks: Tensor) -> None:
        jpeg_adjoint_into(to, grad, *masks)

    return Step(forward, backward)


class _Jpeg(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, quality: Tensor, nearest: bool) -> Tensor:
        scaled = images * 255
        rgb, *inside = _round_trip((scaled.round_() if nearest else scaled.floor_()).clamp_(0, 255).float(), quality)
        ctx.save_for_backward(*inside)
        return rgb.to(images.dtype).div_(255)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _adjoint(grads[0], *ctx.saved_tensors), None, None


def _round_trip(rgb: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decoded float32 integers [N, 3, H, W], and where the clamps of RGB, luma and chroma did not act."""
    height, width = rgb.shape[-2:]
    luma_table, chroma_table = quantisation_tables(quality)
    luma, chroma = _encode_colour(rgb)
    luma, luma_inside = _code(luma, luma_table)
    halved = (..., slice(-(-height // 2)), slice(-(-width // 2)))
    chroma, chroma_inside = (part[halved] for part in _code(_halve(chroma), chroma_table))
    decoded = _decode_colour(luma, _double(chroma)[..., :height, :width])
    return *_clamped(decoded), luma_inside, chroma_inside


def _fixed(pairs: list[tuple[Tensor, int]], offset: int) -> Tensor:
    """⌊(Σ coefficient·plane + offset) / 2^16⌋, exact in float32 because every partial sum is below 2^24."""
    total = torch.full_like(pairs[0][0], offset)
    for plane, coefficient in pairs:
        total.add_(plane, alpha=coefficient)
    return total.mul_(1 / _ONE).floor_()


def _encode_colour(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Luma [N, 1, H, W] and chroma [N, 2, H, W] from RGB, all integers in 0 … 255."""
    planes = rgb.unbind(1)
    luma, blue, red = (
        _fixed([*zip(planes, row, strict=True)], offset)
        for row, offset in zip(_TO_YCC, (32768, (128 << 16) + 32767, (128 << 16) + 32767), strict=True)
    )
    return luma[:, None], torch.stack((blue, red), dim=1)


def _decode_colour(luma: Tensor, chroma: Tensor) -> Tensor:
    """RGB [N, 3, H, W] before its clamp."""
    blue, red = (chroma - 128).unbind(1)
    return torch.stack([_fixed([(blue, b), (red, r)], 32768) for b, r in _TO_RGB], dim=1).add_(luma)


def _extend(x: Tensor, dim: int, multiple: int) -> Tensor:
    """Repeat the last row or column up to a multiple."""
    missing = -x.shape[dim] % multiple
    if not missing:
        return x
    last = x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat((x, *[last] * missing), dim)


def _halve(chroma: Tensor) -> Tensor:
    """Means of 2×2 pixels, rounded by a bias of 1, 2, 1, 2 … along a row."""
    # libjpeg completes the last block of columns from pixels, but that of rows from chroma samples (in `_code`).
    chroma = _extend(_extend(chroma, -1, 16), -2, 2)
    rows = chroma[..., 0::2, :] + chroma[..., 1::2, :]
    bias = 1.0 + torch.arange(rows.shape[-1] // 2, device=chroma.device) % 2
    return (rows[..., 0::2] + rows[..., 1::2]).add_(bias).mul_(0.25).floor_()


def _double(c: Tensor) -> Tensor:
    """libjpeg's "fancy" up-sampling: weights 3:1 to the nearer and farther sample, rows first, then columns."""
    above = torch.cat((c[..., :1, :], c[..., :-1, :]), -2)
    below = torch.cat((c[..., 1:, :], c[..., -1:, :]), -2)
    c = torch.stack((above.add_(c, alpha=3), below.add_(c, alpha=3)), dim=-2).flatten(-3, -2)
    left = torch.cat((c[..., :1], c[..., :-1]), -1).add_(c, alpha=3).add_(8)
    right = torch.cat((c[..., 1:], c[..., -1:]), -1).add_(c, alpha=3).add_(7)
    return torch.stack((left, right), dim=-1).flatten(-2).mul_(1 / 16).floor_()


def _clamped(x: Tensor) -> tuple[Tensor, Tensor]:
    """Clamp to 8 bits in place, and where that changed nothing."""
    inside = (x >= 0) & (x <= 255)
    return x.clamp_(0, 255), inside


def _shift(x: Tensor, bits: int) -> Tensor:
    """Divide by 2^bits, halves up, in place."""
    return x.mul_(2.0**-bits).add_(0.5).floor_()


def _code(samples: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """DCT, quantiser, inverse DCT of planes [N, C, H, W]: decoded samples, and where their clamp did not act."""
    height, width = samples.shape[-2:]
    dct = torch.tensor(DCT, dtype=torch.float64, device=samples.device)
    planes = _extend(_extend(samples, -1, 8), -2, 8).double().sub_(128)
    count, channels, rows, columns = planes.shape
    by_row, by_column = (count, channels, rows, columns // 8, 8), (count, channels, rows // 8, 8, columns)
    blocks = (count, channels, rows // 8, 8, columns // 8, 8)
    coefficients = _shift(planes.reshape(by_row) @ dct.T, 11).reshape(by_column)
    coefficients = _shift(dct @ coefficients, 15).reshape(blocks)
    steps = table[:, None, None, :, None, :].double()
    levels = (coefficients / (8 * steps)).abs_().add_(0.5).floor_().copysign_(coefficients).mul_(steps)
    partial = _shift(dct.T @ levels.reshape(by_column), 11).reshape(by_row)
    decoded = _shift(partial @ dct, 18).reshape(planes.shape)[..., :height, :width].float().add_(128)
    return _clamped(decoded)


def _adjoint(grad: Tensor, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor) -> Tensor:
    """The transpose of the continuous chain, applied to a gradient [N, 3, H, W]."""
    height, width = grad.shape[-2:]
    red, green, blue = (grad * inside).unbind(1)
    luma = (red + green + blue).mul_(luma_inside[:, 0])
    by_blue = blue * (_TO_RGB[2][0] / _ONE) + green * (_TO_RGB[1][0] / _ONE)
    by_red = red * (_TO_RGB[0][1] / _ONE) + green * (_TO_RGB[1][1] / _ONE)
    chroma = torch.stack((by_blue, by_red), dim=1)
    chroma = _double_adjoint(_double_adjoint(chroma, -1), -2).mul_(chroma_inside)
    chroma = _halve_adjoint(_halve_adjoint(chroma, -1, width), -2, height)
    blue, red = chroma.unbind(1)
    columns = zip(*_TO_YCC, strict=True)
    return torch.stack([luma * (y / _ONE) + blue * (b / _ONE) + red * (r / _ONE) for y, b, r in columns], dim=1)


def _double_adjoint(grad: Tensor, dim: int) -> Tensor:
    """Transpose of the triangle up-sampling along one dimension, of which the last sample may have been cut off."""
    grad = grad.transpose(dim, -1)
    even, odd = grad[..., 0::2], grad[..., 1::2]
    out = even * 0.75
    out[..., :-1].add_(even[..., 1:], alpha=0.25)
    out[..., 0].add_(even[..., 0], alpha=0.25)
    count = odd.shape[-1]
    out[..., :count].add_(odd, alpha=0.75)
    out[..., 1:].add_(odd[..., : out.shape[-1] - 1], alpha=0.25)
    if count == out.shape[-1]:
        out[..., -1].add_(odd[..., -1], alpha=0.25)
    return out.transpose(dim, -1)


def _halve_adjoint(grad: Tensor, dim: int, size: int) -> Tensor:
    """Transpose of the mean of two neighbours along one dimension of `size`, the last one repeated if that is odd."""
    out = (grad * 0.5).repeat_interleave(2, dim).narrow(dim, 0, size)
    if size % 2:
        out.select(dim, -1).mul_(2)
    return out
