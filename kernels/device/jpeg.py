"""JPEG round trips by native code and by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import constants, jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

# 2^13 · √8 · the DCT-II matrix in libjpeg's 13-bit fixed point, sums of its rounded constants (jfdctint.c, jidctint.c).
DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)

_BLOCKS = 4  # coded by one program
_TILE = 512  # pixels of one program


@torch.library.custom_op("cannonade::jpeg", mutates_args=())
def round_trip(
    images: Tensor, luma_table: Tensor, chroma_table: Tensor, nearest: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`jpeg` of `cannonade.kernels.jpeg`, float32, and where the clamps to 8 bits did not act: of RGB, luma and chroma.

    Args:
        images: [N, 3, H, W].
        luma_table, chroma_table: [N, 8, 8] integers.
        nearest: round to 8 bits, else cut off.
    """
    images = images.contiguous()
    if backend == "triton":
        out = torch.empty_like(images)
        return out, *jpeg_into(every(out), every(images), luma_table, chroma_table, nearest)
    outputs = _outputs(images)
    tables = (table.to(torch.int32).contiguous() for table in (luma_table, chroma_table))
    native.run("jpeg", *outputs, images, *tables, int(nearest), len(images), *images.shape[2:])
    return outputs


@torch.library.custom_op("cannonade::jpeg_adjoint", mutates_args=())
def _adjoint(grad: Tensor, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor, backend: str) -> Tensor:
    out = torch.empty_like(grad, memory_format=torch.contiguous_format)
    if backend == "triton":
        jpeg_adjoint_into(every(out), every(grad), inside, luma_inside, chroma_inside)
        return out
    native.run("jpeg_adjoint", out, grad.contiguous(), inside, luma_inside, chroma_inside, len(grad), *grad.shape[2:])
    return out


def _outputs(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, channels, height, width = images.shape
    return (
        torch.empty_like(images, memory_format=torch.contiguous_format),
        images.new_empty((count, channels, height, width), dtype=torch.uint8),
        images.new_empty((count, height, width), dtype=torch.uint8),
        images.new_empty((count, 2, (height + 1) // 2, (width + 1) // 2), dtype=torch.uint8),
    )


@round_trip.register_fake
def _(
    images: Tensor, luma_table: Tensor, chroma_table: Tensor, nearest: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(images)


@_adjoint.register_fake
def _(grad: Tensor, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])
    ctx.backend = inputs[4]


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None, None


round_trip.register_autograd(_backward, setup_context=_keep)


def jpeg_into(
    out: Rows, images: Rows, luma_table: Tensor, chroma_table: Tensor, nearest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A round trip of images of a buffer; returns where the clamps of RGB, luma and chroma did not act.

    Luma and chroma are coded by blocks, each from the pixels it needs; then every pixel is decoded.
    """
    like = images.buffer.new_empty((len(images), 0, *images.buffer.shape[2:]))
    _, _, luma_inside, chroma_inside = _outputs(like)
    inside = luma_inside.new_empty((len(images), *images.buffer.shape[1:]))
    if not len(images):
        return inside, luma_inside, chroma_inside
    height, width = images.buffer.shape[2:]
    half_height, half_width = chroma_inside.shape[2:]
    luma, chroma = torch.empty_like(luma_inside), torch.empty_like(chroma_inside)
    tables = [table.to(torch.int32).contiguous() for table in (luma_table, chroma_table)]
    dct = constants(DCT, torch.int32, images.buffer.device)
    sizes = (height, width, half_height, half_width)
    count = len(images)
    with on_device(images.buffer):
        for samples, mask, table, high, wide, part in (
            (luma, luma_inside, tables[0], height, width, 0),
            (chroma, chroma_inside, tables[1], half_height, half_width, 1),
        ):
            programs = triton.cdiv(high, 8) * triton.cdiv(triton.cdiv(wide, 8), _BLOCKS)
            _code_kernel[(count * programs * (1 + part),)](
                samples, mask, images.buffer, images.index, table, dct, *sizes, high, wide,
                CHROMA=bool(part), NEAREST=nearest, BLOCKS=_BLOCKS,
            )  # fmt: skip
        _decode_kernel[(count * triton.cdiv(height * width, _TILE),)](
            out.buffer, out.index, inside, luma, chroma, *sizes, TILE=_TILE
        )
    return inside, luma_inside, chroma_inside


def jpeg_adjoint_into(out: Rows, grad: Rows, inside: Tensor, luma_inside: Tensor, chroma_inside: Tensor) -> None:
    """The gradient at the images from that at the results; the masks are those of `jpeg_into`."""
    if not len(grad):
        return
    height, width = grad.buffer.shape[2:]
    half_height, half_width = chroma_inside.shape[2:]
    sizes = (height, width, half_height, half_width)
    chroma = torch.empty(chroma_inside.shape, device=grad.buffer.device)
    with on_device(grad.buffer):
        _pull_chroma_kernel[(len(grad) * triton.cdiv(half_height * half_width, _TILE // 4),)](
            chroma, grad.buffer, grad.index, inside, chroma_inside, *sizes, TILE=_TILE // 4
        )
        _pull_kernel[(len(grad) * triton.cdiv(height * width, _TILE),)](
            out.buffer, out.index, grad.buffer, grad.index, inside, luma_inside, chroma, *sizes, TILE=_TILE
        )


@jit
def _sample(ptr: tl.tensor, pixels: tl.tensor, own: tl.tensor, NEAREST: tl.constexpr) -> Any:
    """An 8-bit number from a value in [0, 1]."""
    scaled = tl.load(ptr + pixels, mask=own, other=0.0).to(tl.float32) * 255.0
    scaled = tl.minimum(tl.maximum(scaled, 0.0), 255.0)
    if NEAREST:
        scaled = (scaled + 12582912.0) - 12582912.0  # to the nearest whole number, halves to even
    return scaled.to(tl.int32)


@jit
def _luma_of(image_ptr: tl.tensor, pixels: tl.tensor, plane: tl.tensor, own: tl.tensor, NEAREST: tl.constexpr) -> Any:
    red = _sample(image_ptr, pixels, own, NEAREST)
    green = _sample(image_ptr + plane, pixels, own, NEAREST)
    blue = _sample(image_ptr + 2 * plane, pixels, own, NEAREST)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


@jit
def _chroma_of(
    image_ptr: tl.tensor, pixels: tl.tensor, plane: tl.tensor, own: tl.tensor, is_red: tl.tensor, NEAREST: tl.constexpr
) -> Any:
    red = _sample(image_ptr, pixels, own, NEAREST)
    green = _sample(image_ptr + plane, pixels, own, NEAREST)
    blue = _sample(image_ptr + 2 * plane, pixels, own, NEAREST)
    of_red = tl.where(is_red, 32768, -11059)
    of_green = tl.where(is_red, -27439, -21709)
    of_blue = tl.where(is_red, -5329, 32768)
    return (of_red * red + of_green * green + of_blue * blue + 8421375) >> 16


@jit
def _along_x(values: tl.tensor, matrix: tl.tensor, SHIFT: tl.constexpr) -> Any:
    """Products of the rows [8, BLOCKS, 8] of blocks with an 8×8 matrix, rounded: out[y, b, u] = Σ matrix[u, x]·in[y, b, x]."""
    total = tl.sum(values[:, :, None, :] * matrix[None, None, :, :], axis=3)
    return (total + (1 << (SHIFT - 1))) >> SHIFT


@jit
def _along_y(values: tl.tensor, matrix: tl.tensor, SHIFT: tl.constexpr) -> Any:
    """The same with the columns: out[v, b, u] = Σ matrix[v, y]·in[y, b, u]."""
    total = tl.sum(values[None, :, :, :] * matrix[:, :, None, None], axis=1)
    return (total + (1 << (SHIFT - 1))) >> SHIFT


@jit
def _code_kernel(
    samples_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    images_ptr: tl.tensor,
    index_ptr: tl.tensor,
    table_ptr: tl.tensor,
    dct_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    half_height: tl.tensor,
    half_width: tl.tensor,
    high: tl.tensor,
    wide: tl.tensor,
    CHROMA: tl.constexpr,
    NEAREST: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """Blocks of 8×8 samples of one plane from RGB, coded and decoded."""
    across = tl.cdiv(tl.cdiv(wide, 8), BLOCKS)
    down = tl.cdiv(high, 8)
    number = tl.program_id(0)
    place = tl.arange(0, 8)
    y = (number // across % down) * 8 + place[:, None, None]
    x = ((number % across) * BLOCKS + tl.arange(0, BLOCKS)[None, :, None]) * 8 + place[None, None, :]
    plane = number // (across * down)
    image = plane // 2 if CHROMA else plane
    row = tl.load(index_ptr + image)
    if row < 0:
        return
    pixels = height * width
    everywhere = (y >= 0) & (x >= 0)
    from_ptr = images_ptr + row * 3 * pixels
    if CHROMA:
        top = tl.minimum(y, half_height - 1) * 2  # rows are completed from samples, columns from pixels
        bottom = tl.minimum(top + 1, height - 1)
        left = tl.minimum(2 * x, width - 1)
        right = tl.minimum(2 * x + 1, width - 1)
        red = plane % 2 == 1
        total = _chroma_of(from_ptr, top * width + left, pixels, everywhere, red, NEAREST)
        total += _chroma_of(from_ptr, top * width + right, pixels, everywhere, red, NEAREST)
        total += _chroma_of(from_ptr, bottom * width + left, pixels, everywhere, red, NEAREST)
        total += _chroma_of(from_ptr, bottom * width + right, pixels, everywhere, red, NEAREST)
        values = (total + 1 + (x & 1)) >> 2
    else:
        pixel = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)
        values = _luma_of(from_ptr, pixel, pixels, everywhere, NEAREST)
    matrix = tl.load(dct_ptr + place[:, None] * 8 + place[None, :])
    turned = tl.load(dct_ptr + place[None, :] * 8 + place[:, None])
    steps = tl.load(table_ptr + image * 64 + place[:, None, None] * 8 + place[None, None, :])
    coefficients = _along_y(_along_x(values - 128, matrix, 11), matrix, 15)
    # The quotient is farther from every whole number than float32 rounds.
    sizes = (tl.abs(coefficients) + 4 * steps).to(tl.float32)
    levels = tl.div_rn(sizes, (8 * steps).to(tl.float32) + 0.0 * sizes).to(tl.int32) * steps
    levels = tl.where(coefficients < 0, -levels, levels)
    decoded = _along_x(_along_y(levels, turned, 11), turned, 18) + 128
    clamped = tl.minimum(tl.maximum(decoded, 0), 255)
    own = (y < high) & (x < wide)
    to = plane.to(tl.int64) * (high * wide) + y * wide + x
    tl.store(samples_ptr + to, clamped.to(tl.uint8), mask=own)
    tl.store(inside_ptr + to, (clamped == decoded).to(tl.uint8), mask=own)


@jit
def _doubled(
    chroma_ptr: tl.tensor, y: tl.tensor, x: tl.tensor, high: tl.tensor, wide: tl.tensor, own: tl.tensor
) -> Any:
    """Chroma less 128 at a pixel: weights 3 and 1 to the nearer and the farther sample, along both axes."""
    near_y, near_x = y // 2, x // 2
    far_y = tl.minimum(tl.maximum(tl.where(y % 2 == 1, near_y + 1, near_y - 1), 0), high - 1)
    far_x = tl.minimum(tl.maximum(tl.where(x % 2 == 1, near_x + 1, near_x - 1), 0), wide - 1)
    near = 3 * tl.load(chroma_ptr + near_y * wide + near_x, mask=own, other=0).to(tl.int32)
    near += tl.load(chroma_ptr + far_y * wide + near_x, mask=own, other=0).to(tl.int32)
    far = 3 * tl.load(chroma_ptr + near_y * wide + far_x, mask=own, other=0).to(tl.int32)
    far += tl.load(chroma_ptr + far_y * wide + far_x, mask=own, other=0).to(tl.int32)
    return ((3 * near + far + tl.where(x % 2 == 1, 7, 8)) >> 4) - 128


@jit
def _finish(out_ptr: tl.tensor, inside_ptr: tl.tensor, value: tl.tensor, own: tl.tensor) -> None:
    clamped = tl.minimum(tl.maximum(value, 0), 255)
    result = tl.div_rn(clamped.to(tl.float32), tl.full(clamped.shape, 255.0, tl.float32))
    tl.store(out_ptr, result.to(out_ptr.dtype.element_ty), mask=own)
    tl.store(inside_ptr, (clamped == value).to(tl.uint8), mask=own)


@jit
def _decode_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    luma_ptr: tl.tensor,
    chroma_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    half_height: tl.tensor,
    half_width: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    pixels = height * width
    tiles = tl.cdiv(pixels, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = pixel < pixels
    y, x = pixel // width, pixel % width
    luma = tl.load(luma_ptr + image * pixels + pixel, mask=own, other=0).to(tl.int32)
    samples = half_height * half_width
    from_ptr = chroma_ptr + image * 2 * samples
    blue = _doubled(from_ptr, y, x, half_height, half_width, own)
    red = _doubled(from_ptr + samples, y, x, half_height, half_width, own)
    to = out_ptr + row * 3 * pixels + pixel
    mask = inside_ptr + image * 3 * pixels + pixel
    _finish(to, mask, luma + ((91881 * red + 32768) >> 16), own)
    _finish(to + pixels, mask + pixels, luma + ((-22554 * blue - 46802 * red + 32768) >> 16), own)
    _finish(to + 2 * pixels, mask + 2 * pixels, luma + ((116130 * blue + 32768) >> 16), own)


@jit
def _passed(grad_ptr: tl.tensor, inside_ptr: tl.tensor, pixel: tl.tensor, own: tl.tensor) -> Any:
    """A gradient where the clamp did not act."""
    inside = tl.load(inside_ptr + pixel, mask=own, other=0)
    return tl.where(inside != 0, tl.load(grad_ptr + pixel, mask=own, other=0.0).to(tl.float32), 0.0)


@jit
def _share(offset: tl.constexpr, place: tl.tensor, last: tl.tensor, length: tl.tensor) -> Any:
    """Of a sample in the pixel at 2·place + offset, from −1 to 2; an edge sample stands in for the one beyond it."""
    if offset == -1 or offset == 2:
        return tl.where(place >= 0, 0.25, 0.25)
    if offset == 0:
        return tl.where(place == 0, 1.0, 0.75)
    return tl.where((place == last) & (length % 2 == 0), 1.0, 0.75)


@jit
def _pull_chroma_kernel(
    chroma_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    index_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    chroma_inside_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    half_height: tl.tensor,
    half_width: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    """What reaches each chroma sample: from the sixteen pixels that it has a share in."""
    samples, pixels = half_height * half_width, height * width
    tiles = tl.cdiv(samples, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.load(index_ptr + image)
    if row < 0:
        return
    sample = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = sample < samples
    sy, sx = sample // half_width, sample % half_width
    from_ptr = grad_ptr + row * 3 * pixels
    mask_ptr = inside_ptr + image * 3 * pixels
    to_blue = tl.zeros((TILE,), tl.float32)
    to_red = tl.zeros((TILE,), tl.float32)
    for dy in tl.static_range(-1, 3):
        for dx in tl.static_range(-1, 3):
            y, x = 2 * sy + dy, 2 * sx + dx
            there = own & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            share = _share(dy, sy, half_height - 1, height) * _share(dx, sx, half_width - 1, width)
            pixel = y * width + x
            red = _passed(from_ptr, mask_ptr, pixel, there)
            green = _passed(from_ptr + pixels, mask_ptr + pixels, pixel, there)
            blue = _passed(from_ptr + 2 * pixels, mask_ptr + 2 * pixels, pixel, there)
            to_blue += share * (blue * 1.7719993591308594 - green * 0.344146728515625)
            to_red += share * (red * 1.4019927978515625 - green * 0.714141845703125)
    to = image * 2 * samples + sample
    keep_blue = tl.load(chroma_inside_ptr + to, mask=own, other=0) != 0
    keep_red = tl.load(chroma_inside_ptr + to + samples, mask=own, other=0) != 0
    tl.store(chroma_ptr + to, tl.where(keep_blue, to_blue, 0.0), mask=own)
    tl.store(chroma_ptr + to + samples, tl.where(keep_red, to_red, 0.0), mask=own)


@jit
def _pull_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    index_ptr: tl.tensor,
    inside_ptr: tl.tensor,
    luma_inside_ptr: tl.tensor,
    chroma_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    half_height: tl.tensor,
    half_width: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    pixels, samples = height * width, half_height * half_width
    tiles = tl.cdiv(pixels, TILE)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row, source = tl.load(out_index_ptr + image), tl.load(index_ptr + image)
    if (row < 0) | (source < 0):
        return
    pixel = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    own = pixel < pixels
    from_ptr = grad_ptr + source * 3 * pixels
    mask_ptr = inside_ptr + image * 3 * pixels
    luma = _passed(from_ptr, mask_ptr, pixel, own)
    luma += _passed(from_ptr + pixels, mask_ptr + pixels, pixel, own)
    luma += _passed(from_ptr + 2 * pixels, mask_ptr + 2 * pixels, pixel, own)
    luma = tl.where(tl.load(luma_inside_ptr + image * pixels + pixel, mask=own, other=0) != 0, luma, 0.0)
    y, x = pixel // width, pixel % width
    # A pixel is a quarter of its sample, and more where an odd side repeats it.
    share = 0.25 * tl.where((y == height - 1) & (height % 2 == 1), 2.0, 1.0)
    share *= tl.where((x == width - 1) & (width % 2 == 1), 2.0, 1.0)
    at = image * 2 * samples + (y // 2) * half_width + x // 2
    blue = share * tl.load(chroma_ptr + at, mask=own, other=0.0)
    red = share * tl.load(chroma_ptr + at + samples, mask=own, other=0.0)
    to = out_ptr + row * 3 * pixels + pixel
    kind = out_ptr.dtype.element_ty
    tl.store(to, (luma * 0.2989959716796875 - blue * 0.1687469482421875 + red * 0.5).to(kind), mask=own)
    tl.store(
        to + pixels,
        (luma * 0.587005615234375 - blue * 0.3312530517578125 - red * 0.4186859130859375).to(kind),
        mask=own,
    )
    tl.store(to + 2 * pixels, (luma * 0.1139984130859375 + blue * 0.5 - red * 0.0813140869140625).to(kind), mask=own)


_SIZES = dict.fromkeys(("height", "width", "half_height", "half_width"), "i32")
_ALIGNED = ("height", "width", "half_height", "half_width")


def _code_case(chroma: bool) -> Case:
    pointers = {"samples_ptr": "*u8", "inside_ptr": "*u8", "images_ptr": "*fp32", "index_ptr": "*i64"}
    return Case(
        name=f"jpeg {'chroma' if chroma else 'luma'}",
        kernel=_code_kernel,
        types=pointers | {"table_ptr": "*i32", "dct_ptr": "*i32"} | _SIZES | {"high": "i32", "wide": "i32"},
        constants={"CHROMA": chroma, "NEAREST": False, "BLOCKS": _BLOCKS},
        aligned=(*_ALIGNED, "high", "wide"),
        bytes_per_pixel=13.0 if chroma else 14.0,
        least_bytes=13.0 if chroma else 14.0,
        operations=35.0 if chroma else 70.0,  # 32 products and sums a sample, and the colours
    )


CASES = (
    _code_case(False),
    _code_case(True),
    Case(
        name="jpeg decoding",
        kernel=_decode_kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", "inside_ptr": "*u8", "luma_ptr": "*u8", "chroma_ptr": "*u8"}
        | _SIZES,
        constants={"TILE": _TILE},
        aligned=_ALIGNED,
        bytes_per_pixel=16.5,
        least_bytes=16.5,
    ),
    Case(
        name="jpeg chroma adjoint",
        kernel=_pull_chroma_kernel,
        types={"chroma_ptr": "*fp32", "grad_ptr": "*fp32", "index_ptr": "*i64", "inside_ptr": "*u8"}
        | {"chroma_inside_ptr": "*u8"}
        | _SIZES,
        constants={"TILE": _TILE // 4},
        aligned=_ALIGNED,
        bytes_per_pixel=17.5,
        least_bytes=17.5,
    ),
    Case(
        name="jpeg adjoint",
        kernel=_pull_kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", "grad_ptr": "*fp32", "index_ptr": "*i64"}
        | {"inside_ptr": "*u8", "luma_inside_ptr": "*u8", "chroma_ptr": "*fp32"}
        | _SIZES,
        constants={"TILE": _TILE},
        aligned=_ALIGNED,
        bytes_per_pixel=30.0,
        least_bytes=30.0,
    ),
)
