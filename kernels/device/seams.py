"""Seam carving by native code and by Triton.

On Triton the energies are found in tiles, and one program takes all vertical, then one all horizontal seams out of an image:
what a seam is depends on all before it. Its chain is, for each of some 26 seams along an axis of 224 pixels, 224 rows of costs,
each from the one above it, and 46 reads that follow the seam back. Energies and costs are whole numbers in float64, so which
seams go depends on no order of additions, and the seams are those of the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

_TILE = (8, 32)  # rows and columns of a program
_MOVED = 1024  # places of a table's rows that are moved at once where a seam goes
_SPAN = 16  # rows that a seam is followed through in one go, at least
_TRACED = 4096  # places that are followed at once, at most
_RUN = 4096  # values that are set to 0 at once


@torch.library.custom_op("cannonade::seams_index", mutates_args=())
def seams_index(images: Tensor, vertical: Tensor, horizontal: Tensor, backend: str) -> Tensor:
    """Which pixel each pixel of the carved images comes from: [N, 3, H, W] and [N] int64 twice to [N, H, W] int64."""
    images = images.contiguous()
    count, _, height, width = images.shape
    out = images.new_empty((count, height, width), dtype=torch.int64)
    if backend == "native":
        native.run("seams_index", out, images, vertical.contiguous(), horizontal.contiguous(), count, height, width)
    else:
        seams_index_into(out, every(images), vertical, horizontal)
    return out


@seams_index.register_fake
def _(images: Tensor, vertical: Tensor, horizontal: Tensor, backend: str) -> Tensor:
    return images.new_empty((images.shape[0], *images.shape[2:]), dtype=torch.int64)


def seams_index_into(out: Tensor, images: Rows, vertical: Tensor, horizontal: Tensor) -> None:
    """`seams_index` of images of a buffer; a row of out [M, H, W], int32 or int64, for each image of the launch."""
    _, _, height, width = images.buffer.shape
    count, pixels = len(images), height * width
    vertical, horizontal = vertical.contiguous(), horizontal.contiguous()
    energy = images.buffer.new_empty((count, pixels), dtype=torch.float64)
    moves = images.buffer.new_empty((count, pixels), dtype=torch.int8)
    seam = images.buffer.new_empty((count, max(height, width)), dtype=torch.int32)
    columns, rows = images.buffer.new_empty((2, count, pixels), dtype=torch.int32)
    settings = _settings(max(height, width))
    jumps = images.buffer.new_empty((count, settings["BANDS"] * settings["BLOCK"]), dtype=torch.int32)
    for kept, turned in ((columns, False), (rows, True)):
        _launch(
            _energy_kernel, images, energy, kept, images.buffer, images.index, columns, vertical,
            TURNED=turned, enable_fp_fusion=False,
        )  # fmt: skip
        if count and pixels:
            with on_device(out):
                _carve_kernel[(count,)](
                    energy, kept, moves, seam, jumps, images.index, vertical, horizontal, height, width,
                    TURNED=turned, **settings,
                )  # fmt: skip
    _launch(_index_kernel, images, out, columns, rows, images.index, vertical, horizontal)


def expand_into(out: Rows, images: Rows, index: Tensor, vertical: Tensor, horizontal: Tensor) -> None:
    """Enlarge what `seams_index_into` left of each image to its size, as `resize_crop` does with a mirrored border.

    Args:
        out, images: of one shape, [·, 3, H, W].
        index: [M, H, W] int32, of the images.
        vertical, horizontal: [M] int64, numbers of seams.
    """
    counts = (vertical.contiguous(), horizontal.contiguous())
    _launch(_expand_kernel, images, out.buffer, out.index, images.buffer, images.index, index, *counts)


def expand_adjoint_into(out: Rows, grad: Rows, index: Tensor, vertical: Tensor, horizontal: Tensor) -> None:
    """The adjoint of `expand_into`: 0 at the pixels of seams."""
    values = out.buffer.shape[1:].numel()
    if len(out) and values:
        with on_device(out.buffer):
            _clear_kernel[(len(out), triton.cdiv(values, _RUN))](out.buffer, out.index, values, RUN=_RUN)
    counts = (vertical.contiguous(), horizontal.contiguous())
    _launch(_expand_adjoint_kernel, grad, out.buffer, out.index, grad.buffer, grad.index, index, *counts)


def _settings(side: int) -> dict[str, int]:
    """How the rows of tables up to `side` long are divided."""
    block = triton.next_power_of_2(side)
    span = max(_SPAN, block * block // _TRACED)
    return {"BLOCK": block, "BANDS": max(1, block // span), "SPAN": span, "MOVED": max(1, _MOVED // block)}


def _launch(kernel: Any, images: Rows, *arguments: Tensor, **constants: bool) -> None:
    """A program for every tile of every image."""
    _, _, height, width = images.buffer.shape
    rows, columns = _TILE
    tiles = len(images) * triton.cdiv(height, rows) * triton.cdiv(width, columns)
    if tiles:
        with on_device(images.buffer):
            kernel[(tiles,)](*arguments, height, width, **constants, ROWS=rows, COLUMNS=columns)


@jit
def _place(height: tl.tensor, width: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr) -> Any:
    """Of a program: its image, and the rows [ROWS, 1] and columns [1, COLUMNS] of its pixels."""
    tiles = tl.cdiv(width, COLUMNS)
    bands = tl.cdiv(height, ROWS)
    number = tl.program_id(0)
    x = (number % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    y = (number // tiles % bands) * ROWS + tl.arange(0, ROWS)[:, None]
    return (number // (tiles * bands)).to(tl.int64), y, x


@jit
def _grey(
    ptr: tl.tensor,
    columns_ptr: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    plane: tl.tensor,
    width: tl.tensor,
    TURNED: tl.constexpr,
) -> Any:
    """Luminance in float64; where TURNED, of what the vertical seams have left."""
    if TURNED:
        x = tl.load(columns_ptr + y * width + x)
    at = ptr + y * width + x
    red = tl.load(at).to(tl.float32).to(tl.float64)
    green = tl.load(at + plane).to(tl.float32).to(tl.float64)
    blue = tl.load(at + 2 * plane).to(tl.float32).to(tl.float64)
    return (red * 0.2125 + green * 0.7154) + blue * 0.0721


@jit
def _whole_units(values: tl.tensor) -> Any:
    """In multiples of 2⁻³⁰, rounded half to even: above 2⁵² float64 has whole numbers only."""
    return (values * 1073741824.0 + 6755399441055744.0) - 6755399441055744.0


@jit
def _energy_kernel(
    energy_ptr: tl.tensor,
    kept_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    columns_ptr: tl.tensor,
    vertical_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    TURNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Energies, and the columns that no seam has taken yet; where TURNED, transposed, to be carved as columns are."""
    image, y, x = _place(height, width, ROWS, COLUMNS)
    row = tl.load(images_index_ptr + image)
    if row < 0:
        return
    plane = height * width
    left = width
    if TURNED:
        left = width - tl.load(vertical_ptr + image).to(tl.int32)
    from_ptr = images_ptr + row * 3 * plane
    columns_ptr += image * plane
    own_y, own_x = tl.minimum(y, height - 1), tl.minimum(x, left - 1)
    above, below = tl.maximum(own_y - 1, 0), tl.minimum(own_y + 1, height - 1)
    before, after = tl.maximum(own_x - 1, 0), tl.minimum(own_x + 1, left - 1)
    upper_left = _grey(from_ptr, columns_ptr, above, before, plane, width, TURNED)
    upper_right = _grey(from_ptr, columns_ptr, above, after, plane, width, TURNED)
    lower_left = _grey(from_ptr, columns_ptr, below, before, plane, width, TURNED)
    lower_right = _grey(from_ptr, columns_ptr, below, after, plane, width, TURNED)
    middle = _grey(from_ptr, columns_ptr, below, own_x, plane, width, TURNED)
    middle -= _grey(from_ptr, columns_ptr, above, own_x, plane, width, TURNED)
    centre = _grey(from_ptr, columns_ptr, own_y, after, plane, width, TURNED)
    centre -= _grey(from_ptr, columns_ptr, own_y, before, plane, width, TURNED)
    down = (((lower_left - upper_left) + (lower_right - upper_right)) + 2 * middle) * 0.25
    across = (((upper_right - upper_left) + (lower_right - lower_left)) + 2 * centre) * 0.25
    energy = _whole_units(tl.sqrt((down * down + across * across) * 0.5))
    own = (y < height) & (x < left)
    if TURNED:
        at = x * height + y
        number = y + tl.zeros_like(x)
    else:
        at = y * width + x
        number = x + tl.zeros_like(y)
    tl.store(energy_ptr + image * plane + at, energy, mask=own)
    tl.store(kept_ptr + image * plane + at, number, mask=own)


@jit
def _costs(
    moves_ptr: tl.tensor,
    energy_ptr: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    pitch: tl.tensor,
    BLOCK: tl.constexpr,
) -> Any:
    """Write from which column above each pixel is reached, −1, 0 or 1 away; where in the last row the least seam ends."""
    x = tl.arange(0, BLOCK)
    own = x < length
    around = tl.reshape(tl.join(tl.maximum(x - 1, 0), tl.minimum(x + 1, BLOCK - 1)), (2 * BLOCK,))
    cost = tl.load(energy_ptr + x, mask=own, other=float("inf"))
    # A row is asked for while the two before it are worked on.
    coming = tl.load(energy_ptr + pitch + x, mask=own & (rows > 1), other=float("inf"))
    later = tl.load(energy_ptr + 2 * pitch + x, mask=own & (rows > 2), other=float("inf"))
    for y in range(1, rows):
        energy = coming
        coming = later
        later = tl.load(energy_ptr + (y + 2) * pitch + x, mask=own & (y + 2 < rows), other=float("inf"))
        left, right = tl.split(tl.reshape(tl.gather(cost, around, 0), (BLOCK, 2)))
        left = tl.where(x > 0, left, float("inf"))
        right = tl.where(x + 1 < length, right, float("inf"))
        best = tl.minimum(tl.minimum(left, right), cost)
        # Whatever is compared, NaN or infinities, no move leaves the image.
        move = tl.where((left == best) & (x > 0), -1, tl.where((cost == best) | (x + 1 >= length), 0, 1))
        tl.store(moves_ptr + y * pitch + x, move.to(tl.int8), mask=own)
        cost = best + energy
    number = tl.where(cost == cost, cost, float("inf"))
    return tl.minimum(tl.argmin(number, 0).to(tl.int32), length - 1)


@jit
def _trace(
    seam_ptr: tl.tensor,
    jumps_ptr: tl.tensor,
    moves_ptr: tl.tensor,
    place: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    pitch: tl.tensor,
    BLOCK: tl.constexpr,
    BANDS: tl.constexpr,
    SPAN: tl.constexpr,
) -> None:
    """Write the column in each row of the seam that ends at `place`.

    Every step waits for memory. Of each band of SPAN rows it is found first, for all bands at once, where it is left from any
    column; from one band to the next is one step then, after which all bands are followed at once.
    """
    x = tl.arange(0, BLOCK)[None, :]
    band = tl.arange(0, BANDS)[:, None]
    to = x + tl.zeros_like(band)
    for step in range(0, SPAN):
        y = rows - 1 - band * SPAN - step
        to += tl.load(moves_ptr + y * pitch + to, mask=(y > 0) & (x < length), other=0).to(tl.int32)
    tl.store(jumps_ptr + band * BLOCK + x, to)
    tl.debug_barrier()
    number = tl.arange(0, BANDS)
    places = tl.zeros_like(number)
    for entered in range(0, tl.cdiv(rows, SPAN)):
        places = tl.where(number == entered, place, places)
        place = tl.load(jumps_ptr + entered * BLOCK + place)
    for step in range(0, SPAN):
        y = rows - 1 - number * SPAN - step
        tl.store(seam_ptr + y, places, mask=y >= 0)
        places += tl.load(moves_ptr + y * pitch + places, mask=y > 0, other=0).to(tl.int32)
    tl.debug_barrier()


@jit
def _carve_kernel(
    energy_ptr: tl.tensor,
    kept_ptr: tl.tensor,
    moves_ptr: tl.tensor,
    seam_ptr: tl.tensor,
    jumps_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    vertical_ptr: tl.tensor,
    horizontal_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    TURNED: tl.constexpr,
    BLOCK: tl.constexpr,
    BANDS: tl.constexpr,
    SPAN: tl.constexpr,
    MOVED: tl.constexpr,
) -> None:
    """Take seams out of an image's energies and columns, one at a time; what is left stands at the beginning of each row."""
    image = tl.program_id(0).to(tl.int64)
    if tl.load(images_index_ptr + image) < 0:
        return
    count = tl.load(vertical_ptr + image).to(tl.int32)
    rows, length = height, width
    seam_ptr += image * tl.maximum(height, width)
    if TURNED:
        rows, length = width - count, height
        count = tl.load(horizontal_ptr + image).to(tl.int32)
    pitch = height if TURNED else width
    energy_ptr += image * height * width
    kept_ptr += image * height * width
    moves_ptr += image * height * width
    jumps_ptr += image * (BANDS * BLOCK)
    x = tl.arange(0, BLOCK)[None, :]
    for number in range(0, count):
        left = length - number
        place = _costs(moves_ptr, energy_ptr, rows, left, pitch, BLOCK)
        tl.debug_barrier()
        _trace(seam_ptr, jumps_ptr, moves_ptr, place, rows, left, pitch, BLOCK, BANDS, SPAN)
        for top in range(0, rows, MOVED):
            y = top + tl.arange(0, MOVED)[:, None]
            seam = tl.load(seam_ptr + y, mask=y < rows, other=0)
            moving = (y < rows) & (x >= seam) & (x + 1 < left)
            at = y * pitch + x
            energy = tl.load(energy_ptr + at + 1, mask=moving, other=0.0)
            kept = tl.load(kept_ptr + at + 1, mask=moving, other=0)
            tl.debug_barrier()
            tl.store(energy_ptr + at, energy, mask=moving)
            tl.store(kept_ptr + at, kept, mask=moving)
        tl.debug_barrier()


@jit
def _index_kernel(
    out_ptr: tl.tensor,
    columns_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    vertical_ptr: tl.tensor,
    horizontal_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The carved image in the bottom right corner; before it, its first row and column are repeated."""
    image, y, x = _place(height, width, ROWS, COLUMNS)
    if tl.load(images_index_ptr + image) < 0:
        return
    own = (y < height) & (x < width)
    start = image * height * width
    column = tl.maximum(x - tl.load(vertical_ptr + image).to(tl.int32), 0)
    row = tl.maximum(y - tl.load(horizontal_ptr + image).to(tl.int32), 0)
    source = tl.load(rows_ptr + start + column * height + row, mask=own, other=0)
    source_column = tl.load(columns_ptr + start + source * width + column, mask=own, other=0)
    index = source * width + source_column
    tl.store(out_ptr + start + y * width + x, index.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _stretched(place: tl.tensor, length: tl.tensor, size: tl.tensor) -> Any:
    """Of the two of `length` pixels that each of `size` pixels reads: the first, the second, and the second's share."""
    ratio = tl.div_rn(length.to(tl.float32), size.to(tl.float32))
    last = (length - 1).to(tl.float32)
    source = tl.abs((place.to(tl.float32) + 0.5) * ratio - 0.5)
    source = tl.minimum(tl.maximum(tl.minimum(source, 2 * last - source), 0.0), last)
    first = tl.floor(source)
    number = first.to(tl.int32)
    return number, tl.minimum(number + 1, length - 1), source - first


@jit
def _expand_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    index_ptr: tl.tensor,
    vertical_ptr: tl.tensor,
    horizontal_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    image, y, x = _place(height, width, ROWS, COLUMNS)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    own = (y < height) & (x < width)
    plane = height * width
    from_ptr = images_ptr + tl.load(images_index_ptr + image) * 3 * plane
    vertical, horizontal = (tl.load(vertical_ptr + image).to(tl.int32), tl.load(horizontal_ptr + image).to(tl.int32))
    upper, lower, down = _stretched(y, height - horizontal, height)
    left, right, across = _stretched(x, width - vertical, width)
    corner_ptr = index_ptr + image * plane + horizontal * width + vertical
    upper_left = tl.load(corner_ptr + upper * width + left, mask=own, other=0)
    upper_right = tl.load(corner_ptr + upper * width + right, mask=own, other=0)
    lower_left = tl.load(corner_ptr + lower * width + left, mask=own, other=0)
    lower_right = tl.load(corner_ptr + lower * width + right, mask=own, other=0)
    for channel in tl.static_range(3):
        value = tl.load(from_ptr + upper_left, mask=own, other=0.0).to(tl.float32) * ((1 - down) * (1 - across))
        value += tl.load(from_ptr + upper_right, mask=own, other=0.0).to(tl.float32) * ((1 - down) * across)
        value += tl.load(from_ptr + lower_left, mask=own, other=0.0).to(tl.float32) * (down * (1 - across))
        value += tl.load(from_ptr + lower_right, mask=own, other=0.0).to(tl.float32) * (down * across)
        to_ptr = out_ptr + (row * 3 + channel) * plane + y * width + x
        tl.store(to_ptr, value.to(out_ptr.dtype.element_ty), mask=own)
        from_ptr += plane


@jit
def _clear_kernel(out_ptr: tl.tensor, out_index_ptr: tl.tensor, values: tl.tensor, RUN: tl.constexpr) -> None:
    row = tl.load(out_index_ptr + tl.program_id(0))
    if row < 0:
        return
    place = tl.program_id(1) * RUN + tl.arange(0, RUN)
    nothing = tl.zeros((RUN,), out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * values + place, nothing, mask=place < values)


@jit
def _readers(place: tl.tensor, length: tl.tensor, size: tl.tensor) -> Any:
    """Of `size` pixels, the first that may read this one of `length`; as many as `_reads` follow it."""
    inside = tl.where(place > 1, place, 0).to(tl.float32)  # the mirror reaches the two pixels at an edge
    ratio = tl.div_rn(size.to(tl.float32), length.to(tl.float32))
    return tl.maximum(tl.floor((inside - 0.5) * ratio - 0.5).to(tl.int32), 0)


@jit
def _reads(length: tl.tensor, size: tl.tensor) -> Any:
    """How far the readers of a pixel may lie apart: at most three pixels of `length`, the mirror's among them."""
    return 3 * size // length + 1


@jit
def _share(reader: tl.tensor, place: tl.tensor, length: tl.tensor, size: tl.tensor) -> Any:
    """How much of a pixel a reader takes; 0 outside."""
    first, second, share = _stretched(reader, length, size)
    taken = tl.where(first == place, 1 - share, 0.0) + tl.where(second == place, share, 0.0)
    return tl.where(reader < size, taken, 0.0)


@jit
def _expand_adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    index_ptr: tl.tensor,
    vertical_ptr: tl.tensor,
    horizontal_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The gradient at a pixel of the carved image from those that read it; it goes to the one pixel that it comes from."""
    image, y, x = _place(height, width, ROWS, COLUMNS)
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    plane = height * width
    from_ptr = grad_ptr + tl.load(grad_index_ptr + image) * 3 * plane
    vertical, horizontal = (tl.load(vertical_ptr + image).to(tl.int32), tl.load(horizontal_ptr + image).to(tl.int32))
    rows, columns = height - horizontal, width - vertical
    own = (y < rows) & (x < columns)
    first_row, first_column = _readers(y, rows, height), _readers(x, columns, width)
    red = tl.zeros((ROWS, COLUMNS), tl.float32)
    green, blue = red, red
    for down in range(0, _reads(rows, height)):
        reader_row = first_row + down
        row_share = _share(reader_row, y, rows, height)
        for right in range(0, _reads(columns, width)):
            reader = first_column + right
            share = row_share * _share(reader, x, columns, width)
            reads = own & (share > 0)
            at = from_ptr + reader_row * width + reader
            red += share * tl.load(at, mask=reads, other=0.0).to(tl.float32)
            green += share * tl.load(at + plane, mask=reads, other=0.0).to(tl.float32)
            blue += share * tl.load(at + 2 * plane, mask=reads, other=0.0).to(tl.float32)
    source = tl.load(index_ptr + image * plane + (y + horizontal) * width + x + vertical, mask=own, other=0)
    to_ptr = out_ptr + row * 3 * plane + source
    tl.store(to_ptr, red.to(out_ptr.dtype.element_ty), mask=own)
    tl.store(to_ptr + plane, green.to(out_ptr.dtype.element_ty), mask=own)
    tl.store(to_ptr + 2 * plane, blue.to(out_ptr.dtype.element_ty), mask=own)


_SEAMS = 39  # out of a photo of 224×224, both axes together, in the mean
_SIDES = {"height": "i32", "width": "i32"}
_COUNTS = {"vertical_ptr": "*i64", "horizontal_ptr": "*i64"}
_READ = {"images_ptr": "*fp32", "images_index_ptr": "*i64"}
_WRITTEN = {"out_ptr": "*fp32", "out_index_ptr": "*i64"}
_TABLES = {"energy_ptr": "*fp64", "kept_ptr": "*i32"}


def _case(name: str, kernel: Any, types: dict[str, str], moved: float, **settings: Any) -> Case:
    """A kernel of tiles."""
    return Case(
        name=f"seams {name}",
        kernel=kernel,
        types=types | _SIDES,
        aligned=("height", "width"),
        constants=settings.pop("constants", {}) | {"ROWS": _TILE[0], "COLUMNS": _TILE[1]},
        bytes_per_pixel=moved,
        least_bytes=moved,
        **settings,
    )


CASES = (
    _case(
        "energy",
        _energy_kernel,
        _TABLES | _READ | {"columns_ptr": "*i32", "vertical_ptr": "*i64"},
        (12 + 12) + (12 + 4 + 12),  # for either axis
        constants={"TURNED": True},
        operations=2 * 2 * 60,  # of either axis, counted twice, because an H100 does half as many in float64
        fusion=False,
    ),
    Case(
        name="seams carve",
        kernel=_carve_kernel,
        types=_TABLES
        | {"moves_ptr": "*i8", "seam_ptr": "*i32", "jumps_ptr": "*i32", "images_index_ptr": "*i64"}
        | _COUNTS
        | _SIDES,
        constants={"TURNED": False} | _settings(224),
        aligned=("height", "width"),
        bytes_per_pixel=_SEAMS * (8 + 1 + 1 + 12),
        least_bytes=8 + 4 + 4,
        operations=_SEAMS * 2 * 8,  # in float64
        reason=f"each of {_SEAMS} seams, on both axes together, reads the energies, writes and reads where the costs come "
        f"from and moves half of what is left; with few images what decides is their chain, {_SEAMS} · 224 rows of costs",
    ),
    _case(
        "index",
        _index_kernel,
        {"out_ptr": "*i32", "columns_ptr": "*i32", "rows_ptr": "*i32"} | {"images_index_ptr": "*i64"} | _COUNTS,
        4 + 4 + 4,
    ),
    _case("expand", _expand_kernel, _WRITTEN | _READ | {"index_ptr": "*i32"} | _COUNTS, 12 + 4 + 12, operations=50),
    _case(
        "expand adjoint",
        _expand_adjoint_kernel,
        _WRITTEN | {"grad_ptr": "*fp32", "grad_index_ptr": "*i64", "index_ptr": "*i32"} | _COUNTS,
        12 + 4 + 12,
        operations=30 * 16,
    ),
    Case(
        name="seams clear",
        kernel=_clear_kernel,
        types=_WRITTEN | {"values": "i32"},
        constants={"RUN": _RUN},
        aligned=("values",),
        bytes_per_pixel=12,
        least_bytes=12,
    ),
)
