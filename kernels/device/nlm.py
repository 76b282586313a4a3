"""Non-local means by native code and by Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

_LANES = 32  # columns of a program: those of a warp, which hands sums from one to the next without shared memory
_MEAN_ROWS, _SLOPE_ROWS = 24, 12  # of a program, in a thread's registers; each of three channels has a third of them
_PITCH = 64  # what the pitch of a sheet is a multiple of
_BLOCK = 1024  # pixels of a program where each stands for itself


@torch.library.custom_op("cannonade::nlm_mean", mutates_args=())
def nlm_mean(
    images: Tensor,
    offset: Tensor,
    distance: Tensor,
    largest_offset: int,
    largest_distance: int,
    constant_weights: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Weighted means, and the sums of the weights [M, H, W].

    Args:
        images: [M, C, H, W] float32, scaled such that the distance of two patches is a plain sum of squares.
        offset: [M] int64, half the side of the patches.
        distance: [M] int64, largest shift along an axis.
        largest_offset, largest_distance: at least the greatest of them; Triton lays so much memory around the images.
        constant_weights: whether backward takes the weights as constants.
        backend: "triton" or "native".
    """
    images = images.contiguous()
    if backend == "native":
        out, mass = torch.empty_like(images), torch.empty_like(images[:, 0])
        native.run("nlm_mean", out, mass, images, offset.contiguous(), distance.contiguous(), *images.shape)
        return out, mass
    problems = _scaled(images, offset, distance, largest_offset, largest_distance, constant_weights)
    mean, masses = mean_into(every(torch.empty_like(images)), every(images), problems, inside=False)
    return mean, masses[:, 0].clone()


@torch.library.custom_op("cannonade::nlm_mean_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor,
    out: Tensor,
    mass: Tensor,
    images: Tensor,
    offset: Tensor,
    distance: Tensor,
    largest_offset: int,
    largest_distance: int,
    constant_weights: bool,
    backend: str,
) -> Tensor:
    images, grad = images.contiguous(), grad.contiguous()
    to = torch.empty_like(images)
    if backend == "native":
        native.run(
            "nlm_mean_adjoint", to, grad, out, mass, images, offset.contiguous(), distance.contiguous(),
            int(constant_weights), *images.shape,
        )  # fmt: skip
        return to
    problems = _scaled(images, offset, distance, largest_offset, largest_distance, constant_weights)
    slopes = slopes_of(every(grad), every(images), problems, out, mass[:, None].expand(images.shape).contiguous())
    slopes.fold_into(every(to))
    return to


@nlm_mean.register_fake
def _(
    images: Tensor,
    offset: Tensor,
    distance: Tensor,
    largest_offset: int,
    largest_distance: int,
    constant_weights: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out[:, 0])


@_adjoint.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    mass: Tensor,
    images: Tensor,
    offset: Tensor,
    distance: Tensor,
    largest_offset: int,
    largest_distance: int,
    constant_weights: bool,
    backend: str,
) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *inputs[:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None, None


nlm_mean.register_autograd(_backward, setup_context=_keep)


@dataclass(frozen=True)
class Problems:
    """What the means of a launch's images are taken by: of an image's channels together, or of each by itself.

    Attributes:
        scale: [M, C] float32, what makes the distance of two patches a plain sum of squares of differences.
        offset: [M] int64, half the side of the patches.
        distance: [M, C] int64, largest shift along an axis; with 0 a channel stays as it is.
        together: [M] bool; scales and distances of channels that are taken together are equal.
        largest_offset, largest_distance: at least the greatest of them.
        constant_weights: whether backward takes the weights as constants.
    """

    scale: Tensor
    offset: Tensor
    distance: Tensor
    together: Tensor
    largest_offset: int
    largest_distance: int
    constant_weights: bool

    @property
    def edge(self) -> int:
        """How far outside the image a pixel may be that has a part in a mean."""
        return self.largest_offset + self.largest_distance

    @property
    def lanes(self) -> int:
        """Columns of a program, of which at least about half have all their neighbours among them."""
        return max(_LANES, 1 << (8 * self.largest_offset - 1).bit_length())

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters as kernels take them."""
        return self.scale, self.offset, self.distance, self.together.to(torch.int32)


def _scaled(
    images: Tensor,
    offset: Tensor,
    distance: Tensor,
    largest_offset: int,
    largest_distance: int,
    constant_weights: bool,
) -> Problems:
    """Of images that are scaled already, all channels together."""
    ones = torch.ones(images.shape[:2], device=images.device)
    distances = distance[:, None].expand(images.shape[:2]).contiguous()
    together = torch.ones(len(images), device=images.device, dtype=torch.bool)
    return Problems(ones, offset.contiguous(), distances, together, largest_offset, largest_distance, constant_weights)


@dataclass(frozen=True)
class _Sheet:
    """Images with room around them, so that programs of whole tiles need not look where an image ends.

    Its channels alternate row by row: [height, C, pitch].

    Attributes:
        margin: how far from the sheet's corner an image begins, along both axes.
        rows, columns: tiles down and across.
        height, pitch: of the sheet. The pitch is a constant of the compiled kernels, and many widths have the same.
    """

    margin: int
    rows: int
    columns: int
    height: int
    pitch: int

    @staticmethod
    def around(height: int, width: int, tile: tuple[int, int], edge: int, reach: int) -> _Sheet:
        """Tiles over an image and an edge around it, and pixels as far as programs reach from those."""
        rows, columns = triton.cdiv(height + 2 * edge, tile[0]), triton.cdiv(width + 2 * edge, tile[1])
        pitch = triton.cdiv(columns * tile[1] + 2 * reach, _PITCH) * _PITCH
        return _Sheet(edge + reach, rows, columns, rows * tile[0] + 2 * reach, pitch)

    def room(self, images: Rows) -> Tensor:
        """A sheet for every image of a launch: [M, height, C, pitch]."""
        shape = (len(images), self.height, images.buffer.shape[1], self.pitch)
        return images.buffer.new_empty(shape, dtype=torch.float32)


def mean_into(out: Rows, images: Rows, problems: Problems, inside: bool) -> tuple[Tensor, Tensor]:
    """Means of images of a buffer, clipped to [0, 1] if they are to stay `inside`.

    Returns:
        The means before they are scaled back and clipped, and the sums of weights, [M, C, H, W] both; channels that are taken
        together have theirs in the first one's place.
    """
    _, channels, height, width = images.buffer.shape
    offset, lanes = problems.largest_offset, problems.lanes
    tile = (_MEAN_ROWS // channels * channels, lanes - 2 * offset + 1)
    sheet = _Sheet.around(height, width, tile, 0, offset + problems.largest_distance)
    shape = (len(images), channels, height, width)
    mean, mass = (images.buffer.new_empty(shape, dtype=torch.float32) for _ in range(2))
    programs = len(images) * channels * sheet.rows * sheet.columns
    if programs:
        extended = _extended(images, problems, sheet)
        with on_device(mean):
            _mean_kernel[(programs,)](
                out.buffer, out.index, images.index, mean, mass, extended, *problems.tensors(), height, width,
                sheet.margin, sheet.rows, sheet.columns, extended[0].numel(), INSIDE=inside, CHANNELS=channels,
                PITCH=sheet.pitch, OFFSET=offset, ROWS=tile[0], LANES=lanes, num_warps=1,
            )  # fmt: skip
    return mean, mass


@dataclass(frozen=True)
class Slopes:
    """The gradient at the images with their mirrored edges, which is not folded back yet.

    Attributes:
        values: [M, C, height + 2·edge or more, width + 2·edge or more]; 0 beyond the edges.
        extended: the scaled images in the same places.
        index: [M] int64, below 0 where there is no image, and no value.
        edge: how far the values begin outside the image.
    """

    values: Tensor
    extended: Tensor
    index: Tensor
    edge: int

    def fold_into(self, to: Rows) -> None:
        """Add what mirrored pixels have to those they mirror."""
        _, channels, height, width = to.buffer.shape
        if not self.values.numel():
            return
        grid = (len(to) * channels * triton.cdiv(height * width, _BLOCK),)
        with on_device(self.values):
            _fold_kernel[grid](
                to.buffer, to.index, self.index, self.values, channels, height, width, self.edge,
                *self.values.shape[2:], BLOCK=_BLOCK,
            )  # fmt: skip


def slopes_of(grad: Rows, images: Rows, problems: Problems, mean: Tensor, mass: Tensor) -> Slopes:
    """The gradient at images from that at their means; mean and mass as `mean_into` returns them."""
    _, channels, height, width = images.buffer.shape
    offset, lanes, edge = problems.largest_offset, problems.lanes, problems.edge
    reach = 2 * offset - 1 + problems.largest_distance
    tile = (_SLOPE_ROWS // channels * channels, lanes - 4 * offset + 2)
    sheet = _Sheet.around(height, width, tile, edge, reach)
    shape = (len(images), channels, sheet.rows * tile[0], sheet.columns * tile[1])
    values, extended = images.buffer.new_empty(shape, dtype=torch.float32), _extended(images, problems, sheet)
    inner = extended.transpose(1, 2)[:, :, reach : reach + shape[2], reach : reach + shape[3]]
    slopes = Slopes(values, inner, torch.minimum(grad.index, images.index), edge)
    if not len(images) * channels:
        return slopes
    pull, push = sheet.room(images), sheet.room(images)
    size = extended[0].numel()
    with on_device(values):
        _pull_kernel[(len(images) * triton.cdiv(size, _BLOCK),)](
            pull, push, grad.buffer, grad.index, mean, mass, problems.tensors()[3], height, width, sheet.margin,
            sheet.pitch, size, CHANNELS=channels, BLOCK=_BLOCK,
        )  # fmt: skip
        _slope_kernel[(len(images) * channels * sheet.rows * sheet.columns,)](
            values, slopes.index, extended, pull, push, *problems.tensors()[1:], reach, sheet.rows, sheet.columns,
            size, shape[3], shape[2] * shape[3], CONSTANT=problems.constant_weights, CHANNELS=channels,
            PITCH=sheet.pitch, OFFSET=offset, ROWS=tile[0], LANES=lanes, num_warps=1,
        )  # fmt: skip
    return slopes


def _extended(images: Rows, problems: Problems, sheet: _Sheet) -> Tensor:
    """Scaled images with mirrored edges, zeros where those would be mirrored twice."""
    _, channels, height, width = images.buffer.shape
    out = sheet.room(images)
    size = sheet.height * channels * sheet.pitch
    if out.numel():
        with on_device(out):
            _extend_kernel[(len(images) * triton.cdiv(size, _BLOCK),)](
                out, images.buffer, images.index, problems.scale, channels, height, width, sheet.margin, sheet.pitch,
                size, BLOCK=_BLOCK,
            )  # fmt: skip
    return out


@jit
def _mirrored(place: tl.tensor, length: tl.tensor) -> Any:
    """Where a place outside is mirrored to; outside still, if that would take more than one reflection."""
    place = tl.abs(place)
    return tl.where(place < length, place, 2 * (length - 1) - place)


@jit
def _block(size: tl.tensor, BLOCK: tl.constexpr) -> Any:
    """Of a program: which of the parts of this size it works in, and at what places there."""
    blocks = tl.cdiv(size, BLOCK)
    number = tl.program_id(0)
    return number // blocks, (number % blocks) * BLOCK + tl.arange(0, BLOCK)


@jit
def _extend_kernel(
    out_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    margin: tl.tensor,
    pitch: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    image, place = _block(size, BLOCK)
    row = tl.load(images_index_ptr + image)
    if row < 0:
        return
    channel = place // pitch % channels
    y = _mirrored(place // (pitch * channels) - margin, height)
    x = _mirrored(place % pitch - margin, width)
    there = (place < size) & (y >= 0) & (x >= 0)
    from_ptr = images_ptr + row * channels * height * width
    values = tl.load(from_ptr + (channel * height + y) * width + x, mask=there, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + image * channels + channel)
    tl.store(out_ptr + image.to(tl.int64) * size + place, values * scale, mask=place < size)


@jit
def _pull_kernel(
    pull_ptr: tl.tensor,
    push_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    mass_ptr: tl.tensor,
    together_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    margin: tl.tensor,
    pitch: tl.tensor,
    size: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What Σ_q w(p, q)·x(q) gets, g/mass, and what every w(p, q) loses, g/mass·mean(p); both are 0 outside the image.

    Where channels are taken together, the latter is their sum, in the place of the first one.
    """
    image, place = _block(size, BLOCK)
    row = tl.load(grad_index_ptr + image)
    if row < 0:
        return
    together = tl.load(together_ptr + image) != 0
    channel = place // pitch % CHANNELS
    y, x = place // (pitch * CHANNELS) - margin, place % pitch - margin
    there = (place < size) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixels = height * width
    own = y * width + x
    at = image.to(tl.int64) * CHANNELS * pixels + own
    from_ptr = grad_ptr + row * CHANNELS * pixels + own
    mass = tl.load(mass_ptr + at + tl.where(together, 0, channel) * pixels, mask=there, other=1.0)
    grad = tl.load(from_ptr + channel * pixels, mask=there, other=0.0).to(tl.float32)
    push = grad * tl.load(mean_ptr + at + channel * pixels, mask=there, other=0.0)
    if together:
        push = tl.zeros_like(push)
        for c in tl.static_range(CHANNELS):
            value = tl.load(from_ptr + c * pixels, mask=there, other=0.0).to(tl.float32)
            push += value * tl.load(mean_ptr + at + c * pixels, mask=there, other=0.0)
    to = image.to(tl.int64) * size + place
    tl.store(pull_ptr + to, tl.div_rn(grad, mass), mask=place < size)
    tl.store(push_ptr + to, tl.div_rn(push, mass), mask=place < size)


@jit
def _tile(rows: tl.tensor, columns: tl.tensor) -> Any:
    """Of a program: its problem, and its tile down and across."""
    number = tl.program_id(0)
    return number // (rows * columns), number // columns % rows, number % columns


@jit
def _values(ptr: tl.tensor, LINE: tl.constexpr, PITCH: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr) -> Any:
    """As many rows from `ptr` on, and in each as many channels."""
    rows: tl.tuple = ()
    for y in tl.static_range(ROWS):
        for c in tl.static_range(COUNT):
            rows += (tl.load(ptr + (y * LINE + c * PITCH)),)
    return rows


@jit
def _zeros(COUNT: tl.constexpr, LANES: tl.constexpr) -> Any:
    rows: tl.tuple = ()
    for _ in tl.static_range(COUNT):
        rows += (tl.zeros((LANES,), tl.float32),)
    return rows


@jit
def _box(
    rows: tl.tuple, y: tl.constexpr, left: tl.tensor, offset: tl.tensor, OFFSET: tl.constexpr, LANES: tl.constexpr
) -> Any:
    """Sums over boxes of 2·offset by 2·offset, by pairs; their middle is below row y + OFFSET − 1, their left end `left` away.

    Columns near the ends get some of the other end, which nobody uses.
    """
    down = rows[y + OFFSET - 1] + rows[y + OFFSET]
    for k in tl.static_range(1, OFFSET):
        down += tl.where(k < offset, 1.0, 0.0) * (rows[y + OFFSET - 1 - k] + rows[y + OFFSET + k])
    lane = tl.arange(0, LANES)
    pair = down + tl.gather(down, (lane + 1) & (LANES - 1), 0)
    total = tl.gather(pair, (lane - left) & (LANES - 1), 0)
    for k in tl.static_range(1, OFFSET):
        total += tl.where(k < offset, 1.0, 0.0) * tl.gather(pair, (lane + (2 * k - left)) & (LANES - 1), 0)
    return total


@jit
def _weights(
    p: tl.tuple,
    q: tl.tuple,
    offset: tl.tensor,
    COUNT: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> Any:
    """exp(−D), 0 where D > 5, of as many rows; of p and q there are OFFSET − 1 more above and OFFSET more below."""
    squares: tl.tuple = ()
    for y in tl.static_range(ROWS + 2 * OFFSET - 1):
        difference = p[y * COUNT] - q[y * COUNT]
        square = difference * difference
        for c in tl.static_range(1, COUNT):
            difference = p[y * COUNT + c] - q[y * COUNT + c]
            square += difference * difference
        squares += (square,)
    rows: tl.tuple = ()
    for y in tl.static_range(ROWS):
        apart = _box(squares, y, offset - 1, offset, OFFSET, LANES)
        rows += (tl.where(apart > 5.0, 0.0, tl.exp(-apart)),)
    return rows


@jit
def _added(
    total: tl.tuple,
    weights: tl.tuple,
    values: tl.tuple,
    FIRST_WEIGHT: tl.constexpr,
    FIRST_VALUE: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
) -> Any:
    """Totals with weighted values added, from some row of the weights and of the values on."""
    rows: tl.tuple = ()
    for y in tl.static_range(ROWS):
        for c in tl.static_range(COUNT):
            value = values[(FIRST_VALUE + y) * COUNT + c]
            rows += (total[y * COUNT + c] + weights[FIRST_WEIGHT + y] * value,)
    return rows


@jit
def _mean_tile(
    out_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    mass_ptr: tl.tensor,
    p_ptr: tl.tensor,
    scale: tl.tensor,
    offset: tl.tensor,
    distance: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    own: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    INSIDE: tl.constexpr,
    COUNT: tl.constexpr,
    LINE: tl.constexpr,
    PITCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Means of as many channels together, of rows from y on."""
    around: tl.constexpr = ROWS + 2 * OFFSET - 1
    p_ptr -= (OFFSET - 1) * LINE
    p = _values(p_ptr, LINE, PITCH, COUNT, around)
    mass, total = _zeros(ROWS, LANES), _zeros(ROWS * COUNT, LANES)
    for dy in range(-distance, distance + 1):
        for dx in range(-distance, distance + 1):
            q = _values(p_ptr + (dy * LINE + dx), LINE, PITCH, COUNT, around)
            weights = _weights(p, q, offset, COUNT, OFFSET, ROWS, LANES)
            total = _added(total, weights, q, 0, OFFSET - 1, COUNT, ROWS)
            sums: tl.tuple = ()
            for r in tl.static_range(ROWS):
                sums += (mass[r] + weights[r],)
            mass = sums
    for r in tl.static_range(ROWS):
        there = own & (y + r < height)
        at = (y + r) * width + x
        tl.store(mass_ptr + at, mass[r], mask=there)
        for c in tl.static_range(COUNT):
            mean = tl.div_rn(total[r * COUNT + c], mass[r])
            tl.store(mean_ptr + c * height * width + at, mean, mask=there)
            value = tl.div_rn(mean, scale)
            if INSIDE:
                value = tl.minimum(tl.maximum(value, 0.0), 1.0)
            tl.store(out_ptr + c * height * width + at, value.to(out_ptr.dtype.element_ty), mask=there)


@jit
def _mean_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    mean_ptr: tl.tensor,
    mass_ptr: tl.tensor,
    extended_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    offset_ptr: tl.tensor,
    distance_ptr: tl.tensor,
    together_ptr: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    margin: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    sheet: tl.tensor,
    INSIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PITCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Of a tile, shift by shift: a thread has a column of it, and the boxes' sums across go from thread to thread.

    An image's channels have a program each; where they are taken together, each program has its share of the rows.
    """
    line: tl.constexpr = CHANNELS * PITCH
    problem, down, across = _tile(rows, columns)
    image, channel = problem // CHANNELS, problem % CHANNELS
    row = tl.load(out_index_ptr + image)
    if (row < 0) | (tl.load(images_index_ptr + image) < 0):
        return
    offset = tl.load(offset_ptr + image).to(tl.int32)
    distance = tl.load(distance_ptr + problem).to(tl.int32)
    scale = tl.load(scale_ptr + problem)
    lane = tl.arange(0, LANES)
    x = across * (LANES - 2 * OFFSET + 1) - (OFFSET - 1) + lane
    own = (lane >= OFFSET - 1) & (lane < LANES - OFFSET) & (x < width)
    y = down * ROWS
    size = height * width
    p_ptr = extended_ptr + image.to(tl.int64) * sheet + (y + margin) * line + (x + margin)
    to = image.to(tl.int64) * CHANNELS * size
    out_ptr += row * CHANNELS * size
    if tl.load(together_ptr + image) != 0:
        share: tl.constexpr = ROWS // CHANNELS
        _mean_tile(
            out_ptr, mean_ptr + to, mass_ptr + to, p_ptr + channel * share * line, scale, offset, distance,
            y + channel * share, x, own, height, width, INSIDE, CHANNELS, line, PITCH, OFFSET, share, LANES,
        )  # fmt: skip
    else:
        to += channel * size
        _mean_tile(
            out_ptr + channel * size, mean_ptr + to, mass_ptr + to, p_ptr + channel * PITCH, scale, offset, distance,
            y, x, own, height, width, INSIDE, 1, line, PITCH, OFFSET, ROWS, LANES,
        )  # fmt: skip


@jit
def _flows(
    weights: tl.tuple,
    p: tl.tuple,
    q: tl.tuple,
    pull_p: tl.tuple,
    pull_q: tl.tuple,
    push_p: tl.tuple,
    push_q: tl.tuple,
    COUNT: tl.constexpr,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
) -> Any:
    """−dL/dD(p, q), of both ends' means: w·(push_p + push_q − Σ pull_p·q − Σ pull_q·p); p and q from row FIRST on."""
    rows: tl.tuple = ()
    for y in tl.static_range(ROWS):
        flow = push_p[y] + push_q[y]
        for c in tl.static_range(COUNT):
            flow -= pull_p[y * COUNT + c] * q[(FIRST + y) * COUNT + c]
            flow -= pull_q[y * COUNT + c] * p[(FIRST + y) * COUNT + c]
        rows += (weights[y] * flow,)
    return rows


@jit
def _slope_tile(
    to_ptr: tl.tensor,
    p_ptr: tl.tensor,
    pull_ptr: tl.tensor,
    push_ptr: tl.tensor,
    offset: tl.tensor,
    distance: tl.tensor,
    own: tl.tensor,
    to_pitch: tl.tensor,
    to_plane: tl.tensor,
    COUNT: tl.constexpr,
    LINE: tl.constexpr,
    PITCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Rows of Σ_t w(p, t)·pull(p + t) + 2·(x_p − x_{p+t})·Σ_u flow(p − u, t), of as many channels together."""
    above: tl.constexpr = 2 * OFFSET - 1
    pull_ptr -= OFFSET * LINE
    push_ptr -= OFFSET * LINE
    p_ptr -= above * LINE
    p = _values(p_ptr, LINE, PITCH, COUNT, ROWS + 2 * above)
    pull_p = _values(pull_ptr, LINE, PITCH, COUNT, ROWS + above)
    push_p = _values(push_ptr, LINE, PITCH, 1, ROWS + above)
    total = _zeros(ROWS * COUNT, LANES)
    for dy in range(-distance, distance + 1):
        for dx in range(-distance, distance + 1):
            shift = dy * LINE + dx
            q = _values(p_ptr + shift, LINE, PITCH, COUNT, ROWS + 2 * above)
            pull_q = _values(pull_ptr + shift, LINE, PITCH, COUNT, ROWS + above)
            push_q = _values(push_ptr + shift, LINE, PITCH, 1, ROWS + above)
            weights = _weights(p, q, offset, COUNT, OFFSET, ROWS + above, LANES)
            flows = _flows(weights, p, q, pull_p, pull_q, push_p, push_q, COUNT, OFFSET - 1, ROWS + above)
            total = _added(total, weights, pull_q, OFFSET, OFFSET, COUNT, ROWS)
            sums: tl.tuple = ()
            for y in tl.static_range(ROWS):
                flow = 2.0 * _box(flows, y, offset, offset, OFFSET, LANES)
                for c in tl.static_range(COUNT):
                    difference = p[(above + y) * COUNT + c] - q[(above + y) * COUNT + c]
                    sums += (total[y * COUNT + c] + difference * flow,)
            total = sums
    _store_slope(to_ptr, total, own, to_pitch, to_plane, COUNT, ROWS)


@jit
def _constant_slope_tile(
    to_ptr: tl.tensor,
    p_ptr: tl.tensor,
    pull_ptr: tl.tensor,
    offset: tl.tensor,
    distance: tl.tensor,
    own: tl.tensor,
    to_pitch: tl.tensor,
    to_plane: tl.tensor,
    COUNT: tl.constexpr,
    LINE: tl.constexpr,
    PITCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """The same with the weights as constants: its first term."""
    around: tl.constexpr = ROWS + 2 * OFFSET - 1
    p_ptr -= (OFFSET - 1) * LINE
    p = _values(p_ptr, LINE, PITCH, COUNT, around)
    total = _zeros(ROWS * COUNT, LANES)
    for dy in range(-distance, distance + 1):
        for dx in range(-distance, distance + 1):
            shift = dy * LINE + dx
            q = _values(p_ptr + shift, LINE, PITCH, COUNT, around)
            pull = _values(pull_ptr + shift, LINE, PITCH, COUNT, ROWS)
            weights = _weights(p, q, offset, COUNT, OFFSET, ROWS, LANES)
            total = _added(total, weights, pull, 0, 0, COUNT, ROWS)
    _store_slope(to_ptr, total, own, to_pitch, to_plane, COUNT, ROWS)


@jit
def _store_slope(
    to_ptr: tl.tensor,
    total: tl.tuple,
    own: tl.tensor,
    to_pitch: tl.tensor,
    to_plane: tl.tensor,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    for y in tl.static_range(ROWS):
        for c in tl.static_range(COUNT):
            tl.store(to_ptr + c * to_plane + y * to_pitch, total[y * COUNT + c], mask=own)


@jit
def _slope_kernel(
    to_ptr: tl.tensor,
    index_ptr: tl.tensor,
    extended_ptr: tl.tensor,
    pull_ptr: tl.tensor,
    push_ptr: tl.tensor,
    offset_ptr: tl.tensor,
    distance_ptr: tl.tensor,
    together_ptr: tl.tensor,
    reach: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    sheet: tl.tensor,
    to_pitch: tl.tensor,
    to_plane: tl.tensor,
    CONSTANT: tl.constexpr,
    CHANNELS: tl.constexpr,
    PITCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """As forward, every pixel adds up what all its partners send it."""
    line: tl.constexpr = CHANNELS * PITCH
    share: tl.constexpr = ROWS // CHANNELS
    problem, down, across = _tile(rows, columns)
    image, channel = problem // CHANNELS, problem % CHANNELS
    if tl.load(index_ptr + image) < 0:
        return
    offset = tl.load(offset_ptr + image).to(tl.int32)
    distance = tl.load(distance_ptr + problem).to(tl.int32)
    lane = tl.arange(0, LANES)
    x = across * (LANES - 4 * OFFSET + 2) - (2 * OFFSET - 1) + lane
    own = (lane >= 2 * OFFSET - 1) & (lane < LANES - 2 * OFFSET + 1)
    together = tl.load(together_ptr + image) != 0
    y = down * ROWS + tl.where(together, channel * share, 0)
    at = image.to(tl.int64) * sheet + (y + reach) * line + (x + reach) + tl.where(together, 0, channel * PITCH)
    x_ptr, pull_ptr, push_ptr = extended_ptr + at, pull_ptr + at, push_ptr + at
    to_ptr += (image.to(tl.int64) * CHANNELS + tl.where(together, 0, channel)) * to_plane + y * to_pitch + x
    if together:
        if CONSTANT:
            _constant_slope_tile(
                to_ptr, x_ptr, pull_ptr, offset, distance, own, to_pitch, to_plane, CHANNELS, line, PITCH, OFFSET,
                share, LANES,
            )  # fmt: skip
        else:
            _slope_tile(
                to_ptr, x_ptr, pull_ptr, push_ptr, offset, distance, own, to_pitch, to_plane, CHANNELS, line, PITCH,
                OFFSET, share, LANES,
            )  # fmt: skip
    elif CONSTANT:
        _constant_slope_tile(
            to_ptr, x_ptr, pull_ptr, offset, distance, own, to_pitch, to_plane, 1, line, PITCH, OFFSET, ROWS, LANES
        )
    else:
        _slope_tile(
            to_ptr, x_ptr, pull_ptr, push_ptr, offset, distance, own, to_pitch, to_plane, 1, line, PITCH, OFFSET,
            ROWS, LANES,
        )  # fmt: skip


@jit
def _fold_kernel(
    to_ptr: tl.tensor,
    to_index_ptr: tl.tensor,
    index_ptr: tl.tensor,
    values_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    edge: tl.tensor,
    rows: tl.tensor,
    pitch: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    pixels = height * width
    plane, place = _block(pixels, BLOCK)
    row = tl.load(to_index_ptr + plane // channels)
    if (row < 0) | (tl.load(index_ptr + plane // channels) < 0):
        return
    own = place < pixels
    y, x = place // width, place % width
    from_ptr = values_ptr + plane.to(tl.int64) * rows * pitch
    total = tl.zeros((BLOCK,), tl.float32)
    for vertical in tl.static_range(3):  # itself, and what is mirrored at the near edge and at the far one
        if vertical == 0:
            v = y
        else:
            v = tl.where(y == (height - 1) * (vertical - 1), -edge - 1, 2 * (height - 1) * (vertical - 1) - y)
        for horizontal in tl.static_range(3):
            if horizontal == 0:
                h = x
            else:
                h = tl.where(x == (width - 1) * (horizontal - 1), -edge - 1, 2 * (width - 1) * (horizontal - 1) - x)
            there = own & (v >= -edge) & (h >= -edge) & (v + edge < rows) & (h + edge < pitch)
            total += tl.load(from_ptr + (v + edge) * pitch + (h + edge), mask=there, other=0.0)
    to = to_ptr + (row * channels + plane % channels) * pixels + place
    tl.store(to, total.to(to_ptr.dtype.element_ty), mask=own)


def _case(
    name: str, kernel: Any, arguments: str, moved: float, least: float, operations: float = 0, **constants: Any
) -> Case:
    """Arguments by name: first pointers, then whole numbers."""
    pointers, numbers = (each.split() for each in arguments.split(";"))
    kinds = {"offset": "*i64", "distance": "*i64", "together": "*i32"}
    kinds |= {each: "*i64" for each in pointers if each.endswith("index")}
    return Case(
        name=name,
        kernel=kernel,
        types={f"{each}_ptr": kinds.get(each, "*fp32") for each in pointers} | dict.fromkeys(numbers, "i32"),
        constants=constants,
        aligned=tuple(each for each in numbers if each in ("height", "width", "pitch", "size", "sheet")),
        warps=4 if "BLOCK" in constants else 1,
        bytes_per_pixel=moved,
        least_bytes=least,
        operations=operations,
    )


def _operations(instructions: int, rows: int, columns: int, edge: int) -> float:
    """Of a pixel of 224×224, in tiles of as many rows and columns that overlap.

    Of the dearest draw, 529 shifts (distance 11) of patches of 7, three channels apart, at as many instructions for a shift
    of a tile as there are in the machine code. Each takes the time of two operations, as a product with a sum does.
    """
    side = 224 + 2 * edge
    tiles = -(-side // rows) * -(-side // columns)
    return 3 * 23 * 23 * 2 * instructions * _LANES * tiles / 224**2


_TILES = {"CHANNELS": 3, "PITCH": 320, "OFFSET": 3, "LANES": _LANES}

# Sheets of these tiles have 1.7 to 1.8 times as many pixels as the image, and the gradient of mirrored edges 1.3 times. The
# least is counted without: for a mean the image, the result and what is kept of it, twice.
CASES = (
    _case(
        "nlm sheet", _extend_kernel, "out images images_index scale; channels height width margin pitch size", 34, 24,
        BLOCK=_BLOCK,
    ),
    _case(
        "nlm mean", _mean_kernel,
        "out out_index images_index mean mass extended scale offset distance together;"
        "height width margin rows columns sheet", 57, 48, _operations(592, _MEAN_ROWS, 27, 0),
        INSIDE=True, ROWS=_MEAN_ROWS, **_TILES,
    ),
    _case(
        "nlm pull", _pull_kernel, "pull push grad grad_index mean mass together; height width margin pitch size", 79, 60,
        CHANNELS=3, BLOCK=_BLOCK,
    ),
    _case(
        "nlm slope", _slope_kernel,
        "to index extended pull push offset distance together; reach rows columns sheet to_pitch to_plane", 81, 48,
        _operations(668, _SLOPE_ROWS, 22, 14), CONSTANT=False, ROWS=_SLOPE_ROWS, **_TILES,
    ),
    _case(
        "nlm slope, constant weights", _slope_kernel,
        "to index extended pull push offset distance together; reach rows columns sheet to_pitch to_plane", 59, 36,
        _operations(307, _SLOPE_ROWS, 22, 14), CONSTANT=True, ROWS=_SLOPE_ROWS, **_TILES,
    ),
    _case("nlm fold", _fold_kernel, "to to_index index values; channels height width edge rows pitch", 28, 24,
        BLOCK=_BLOCK,
    ),
)  # fmt: skip
