"""Contrast: histogram equalisation, percentile stretching, and contrast-limited adaptive equalisation (CLAHE)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.clahe import (
    NOISE,
    clahe_adjoint_into,
    clahe_by_tiles,
    clahe_into,
    most_tiles,
    replace_values,
)
from cannonade.kernels.device.histogram import (
    LEAST_SPREAD,
    equalise_adjoint_into,
    equalise_into,
    equalised_by_shares,
    stretch_adjoint_into,
    stretch_into,
    stretched_by_percentiles,
)
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.pointwise import clip

_GREYS = 16383  # CLAHE's largest grey value
_BINS = 256
_GREYS_PER_BIN = 65
_CHUNK = 1 << 19  # pixels that CLAHE takes at once: its float64 temporaries would else be 30 times the input


def equalise(planes: Tensor, bins: Tensor, backend: Backend = "auto", most_bins: int | None = None) -> Tensor:
    """Histogram equalisation: each value becomes its share in the distribution, linear between the centres of the bins.

    The bins divide [min, max] of the plane. Gradient: the counts are constants, and the bins' dependence on min and max
    is kept; pixels that share the minimum or maximum share its gradient equally. A constant plane is unchanged.

    Source: `skimage.exposure.equalize_hist`.

    Args:
        planes: [P, H, W] in [0, 1].
        bins: [P] int64, at least 2.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.
        most_bins: no plane has more, where that is known: it spares native code and Triton asking the device.

    Returns:
        [P, H, W] in [0, 1].
    """
    chosen = choose(backend, planes, native=planes.dtype == torch.float32, on_gpu=planes.dtype in NARROW)
    if chosen != "torch":
        size = most_bins or (int(bins.max()) if len(bins) else 2)
        equalised: Tensor = equalised_by_shares(planes, bins, size, chosen)[0]
        return equalised
    flat = planes.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    varies = high - low >= LEAST_SPREAD
    shares = _distribution(flat.detach(), bins[:, None]).to(planes.dtype)
    place = (flat - low) * (bins[:, None] / torch.where(varies, high - low, 1.0)) - 0.5
    index = place.detach().long().clamp_(min=0)
    index = torch.minimum(index, bins[:, None] - 2, out=index)
    fraction = clip(place - index)
    below = shares.gather(1, index)
    step = shares.gather(1, index.add_(1)).sub_(below)
    return torch.where(varies, clip(below.addcmul(fraction, step)), flat).view_as(planes)


def _distribution(flat: Tensor, bins: Tensor) -> Tensor:
    """[P, largest bins] float64: the share of each row's values [P, M] in each of its bins [P, 1] and those below."""
    size = int(bins.max()) if len(bins) else 2
    chunk = max(1, _CHUNK // max(1, flat.shape[1]))
    parts = zip(flat.split(chunk), bins.split(chunk), strict=True)
    counts = torch.cat([_count(_bin(values, own), size) for values, own in parts])
    return counts.cumsum(1, dtype=torch.float64) / flat.shape[1]


def _bin(flat: Tensor, bins: Tensor) -> Tensor:
    """The bin of each value, as NumPy: 8-bit values often lie on an edge, so the edges decide, in float64."""
    values = flat.double()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    width = (high - low) / bins
    # The bin or the one below it, since rounding errs by less than 1e-9 of a bin.
    index = ((values - low).mul_(bins / torch.where(high > low, high - low, 1.0)).sub_(1e-9)).long()
    reaches_next = values >= (index + 1) * width + low
    return torch.minimum(index.add_(reaches_next), bins - 1, out=index)


def _count(index: Tensor, size: int) -> Tensor:
    """[P, size] int32: how often each number in [0, size) occurs in each row of `index` [P, M] int64."""
    one = torch.ones((), dtype=torch.int32, device=index.device)
    return one.new_zeros(len(index), size).scatter_add_(1, index, one.expand_as(index))


def stretch(planes: Tensor, low: Tensor, high: Tensor, backend: Backend = "auto") -> Tensor:
    """Rescale so that two percentiles become 0 and 1, and clip; where they coincide, every value becomes theirs.

    Gradient: exact, through the sorted values that the percentiles lie between; of equal ones, the first in raster
    order.

    Source: `numpy.percentile` and `skimage.exposure.rescale_intensity`.

    Args:
        planes: [P, H, W] in [0, 1].
        low, high: [P], the two shares of the values in [0, 1], low < high.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [P, H, W] in [0, 1].
    """
    chosen = choose(backend, planes, native=planes.dtype == torch.float32, on_gpu=planes.dtype in NARROW)
    if chosen != "torch":
        between: Tensor = stretched_by_percentiles(planes, low.double(), high.double(), chosen)[0]
        return between
    flat = planes.flatten(1)
    floor = _percentile(flat, low)
    # The largest are the negative's smallest: finding 4 % at each end takes a quarter of the time of sorting all.
    spread = -_percentile(-flat, 1 - high.double()) - floor
    apart = spread >= LEAST_SPREAD
    stretched = clip((flat - floor) / torch.where(apart, spread, 1.0))
    return torch.where(apart, stretched, floor).view_as(planes)


def _percentile(flat: Tensor, share: Tensor) -> Tensor:
    """[P, 1]: the value below which `share` [P] of each row of `flat` [P, M] lies, linear between sorted values."""
    if not len(flat):
        return flat[:, :1]
    place = share.double() * (flat.shape[1] - 1)
    lower = place.floor().long().clamp(max=flat.shape[1] - 2)
    smallest = flat.detach().topk(int(lower.max()) + 2, dim=1, largest=False).values
    ends = [_first(flat, smallest.gather(1, rank[:, None])) for rank in (lower, lower + 1)]
    fraction = (place - lower).to(flat.dtype)[:, None]
    return ends[0] + (ends[1] - ends[0]) * fraction


def _first(flat: Tensor, value: Tensor) -> Tensor:
    """`value` [P, 1] of each row, differentiable as the first element equal to it."""
    return flat.gather(1, (flat == value).byte().argmax(1, keepdim=True))


class Clahe(NamedTuple):
    """The result of `clahe`.

    Attributes:
        planes: [P, H, W] in [0, 1].
        slope: [P, H, W], the derivative of each value by its own pixel, for backward; None where it was not asked for.
    """

    planes: Tensor
    slope: Tensor | None


def clahe(
    planes: Tensor,
    rows: Tensor,
    columns: Tensor,
    clip_limit: Tensor,
    with_slope: bool = True,
    backend: Backend = "auto",
    least_side: int | None = None,
) -> Clahe:
    """Contrast-limited adaptive histogram equalisation, in 14-bit grey values and 253 bins of 65 of them.

    Each tile's histogram, clipped and its excess redistributed, becomes a look-up table; a pixel is interpolated
    between the tables of the four tiles around it, and the result stretched to [0, 1]. A plane that is constant in 16
    bits, or becomes constant, stays unchanged.

    The slope is that of the interpolated tables, each linear within a bin (so it is the tile's clipped density), with
    the tables and the ends of both stretches as constants.

    Source: `skimage.exposure.equalize_adapthist`; Zuiderveld, Graphics Gems IV (1994), VIII.5.

    Args:
        planes: [P, H, W] in [0, 1].
        rows, columns: [P] int64, sides of the tiles in pixels, at least 1.
        clip_limit: [P], share of a tile's pixels that a bin may hold.
        with_slope: whether the slope is wanted.
        backend: "auto", "triton", "native" or "torch"; of the same bits but for the slope's rounding.
        least_side: no side of a tile is less, where that is known: it spares Triton asking the device.
    """
    chosen = choose(backend, planes, native=planes.dtype == torch.float32, on_gpu=planes.dtype in NARROW)
    height, width = planes.shape[1:]
    if chosen != "torch":
        tiles = _room(planes, rows, columns, least_side) if chosen == "triton" else 0
        value, slope = clahe_by_tiles(planes, rows, columns, clip_limit.double(), with_slope, tiles, chosen)
        return Clahe(value, slope if with_slope else None)
    tiles = int((-(-height // rows) * -(-width // columns)).max()) if len(planes) else 1
    # Small images have many table entries to a pixel, so those are bounded as well.
    chunk = max(1, min(_CHUNK // (height * width), 4 * _CHUNK // (tiles * _BINS)))
    chunks = zip(*(each.split(chunk) for each in (planes, rows, columns, clip_limit)), strict=True)
    parts = [_clahe(own, tall, wide, limit, with_slope) for own, tall, wide, limit in chunks]
    slopes = [part.slope for part in parts if part.slope is not None]
    return Clahe(torch.cat([part.planes for part in parts]), torch.cat(slopes) if slopes else None)


def _room(planes: Tensor, rows: Tensor, columns: Tensor, least_side: int | None) -> int:
    """The number of tiles that tables need room for."""
    if not len(planes):
        return 0
    least = (least_side, least_side) if least_side else (int(rows.min()), int(columns.min()))
    return most_tiles(planes.shape[1:], *least)


def _clahe(planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor, with_slope: bool) -> Clahe:
    grey, scale = _stretched((planes.double() * 65535).round_(), _GREYS)
    bins = grey.round_().long().floor_divide_(_GREYS_PER_BIN)
    tables = _tables(bins, rows, columns, clip_limit)
    looked_up = _between_tiles(bins, tables, rows, columns).floor_()
    out, contrast = _stretched(looked_up, 1.0)
    factor = contrast * scale * (65535 / _GREYS_PER_BIN)
    changes = factor > 0
    value = torch.where(changes, out.to(planes.dtype), planes)
    if not with_slope:
        return Clahe(value, None)
    density = tables.diff(dim=2, prepend=torch.zeros_like(tables[..., :1]))
    slope = _between_tiles(bins, density, rows, columns).mul_(factor)
    return Clahe(value, torch.where(changes, slope.to(planes.dtype), 1.0))


def _stretched(planes: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """The planes stretched, in place, to [0, largest], and the factor [P, 1, 1] of each: 0 where it is constant."""
    low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    varies = high > low
    spread = torch.where(varies, high - low, 1.0)
    return planes.sub_(low).div_(spread).mul_(largest), torch.where(varies, largest / spread, 0.0)


def _tables(bins: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor) -> Tensor:
    """[P, tiles, 256] float32: the grey value that each tile gives each bin; tiles in raster order."""
    height, width = bins.shape[1:]
    across = -(-width // columns)
    tiles = -(-height // rows) * across
    most = int(tiles.max()) if len(tiles) else 1
    y, row = _completed(height, rows)
    x, column = _completed(width, columns)
    # A coordinate past its plane's last tile has tile `most`, a bucket that is thrown away.
    row = torch.where(row * rows[:, None] < (tiles // across * rows)[:, None], row * across[:, None], most)
    column = torch.where(column * columns[:, None] < (across * columns)[:, None], column, most)
    index = (row[:, :, None] + column[:, None]).clamp_(max=most).mul_(_BINS).add_(bins[:, y][:, :, x])
    counts = _count(index.flatten(1), (most + 1) * _BINS)[:, : most * _BINS].reshape(-1, _BINS)
    area = (rows * columns).double()
    limit = (clip_limit.double() * area).floor().clamp(min=1).int()
    clipped = _clip(counts, limit.repeat_interleave(most)).view(-1, most, _BINS)
    scale = torch.full_like(area, _GREYS) / area  # a number over a tensor would be multiplied by the reciprocal
    greys = clipped.cumsum(2, dtype=torch.float64).mul_(scale[:, None, None])
    return greys.clamp_(max=_GREYS).floor_().float()


def _completed(side: int, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates 0 … L−1 that fill every plane's last tile: the pixel each mirrors to [L], and its tile [P, L]."""
    length = int((-(-side // kernel) * kernel).max()) if len(kernel) else side
    coordinates = torch.arange(length, device=kernel.device)
    period = max(1, 2 * (side - 1))
    inside = coordinates % period
    return torch.minimum(inside, period - inside) if side > 1 else inside * 0, coordinates // kernel[:, None]


def _clip(counts: Tensor, limit: Tensor) -> Tensor:
    """Clip histograms [R, 256] int32 at limit [R] and redistribute the excess, as scikit-image: in place."""
    limit = limit[:, None]
    excess = (counts - limit).clamp_(min=0).sum(1, keepdim=True, dtype=torch.int32)
    counts.clamp_(max=limit)
    increment = excess // _BINS
    low = counts < limit - increment
    excess -= low.sum(1, keepdim=True, dtype=torch.int32) * increment
    counts += low * increment
    full = torch.where(counts >= limit - increment, limit - counts, 0)
    excess -= full.sum(1, keepdim=True, dtype=torch.int32)
    counts += full
    return _redistribute(counts, limit, excess)


def _redistribute(counts: Tensor, limit: Tensor, excess: Tensor) -> Tensor:
    """Hand out what is left of the excess, one by one to every step-th bin from bin `first` on that is below the limit.

    All histograms take the same step of scikit-image's loop at once; most need one or two, and leave when done.
    """
    bins = torch.arange(_BINS, dtype=torch.int32, device=counts.device)
    todo = torch.arange(len(counts), device=counts.device)
    first = 0
    while True:
        free = (counts[todo] < limit[todo]).sum(1, keepdim=True, dtype=torch.int32)
        todo = todo[((excess[todo] > 0) & (free > 0))[:, 0]]
        if not len(todo):
            return counts
        own = counts[todo]
        below = own < limit[todo]
        step = (below.sum(1, keepdim=True, dtype=torch.int32) // excess[todo]).clamp_(min=1)
        chosen = below & (bins >= first) & ((bins - first) % step == 0)
        counts[todo] = own + chosen
        excess[todo] -= chosen.sum(1, keepdim=True, dtype=torch.int32)
        first = (first + 1) % _BINS


def _between_tiles(bins: Tensor, tables: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[P, H, W] float64: entries of the four tiles around each pixel, weighted by whole numbers over the tile's area.

    Products and sums of whole numbers are exact in float64, so the result is the same on every device.
    """
    height, width = bins.shape[1:]
    across = -(-width // columns)[:, None]
    flat = tables.flatten(1)
    total = torch.zeros(bins.shape, dtype=torch.float64, device=bins.device)
    for tile_row, row_weight in _neighbours(height, rows):
        for tile_column, column_weight in _neighbours(width, columns):
            tile = (tile_row * across)[:, :, None] + tile_column[:, None]
            entry = flat.gather(1, tile.mul_(_BINS).add_(bins).flatten(1)).view_as(total)
            total.addcmul_(entry.double(), (row_weight[:, :, None] * column_weight[:, None]).double())
    return total.div_((rows * columns)[:, None, None])


def _neighbours(side: int, kernel: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Tile before and tile after each coordinate's place between tile centres, each with its weight: [P, side] each."""
    size = kernel[:, None]
    place = torch.arange(side, device=kernel.device) + size // 2
    after, weight = place // size, place % size
    last = (side - 1) // size
    return ((after - 1).clamp_(min=0), size - weight), (torch.minimum(after, last), weight)


def replace_value(images: Tensor, new_value: Tensor, slope: Tensor, backend: Backend = "auto") -> Tensor:
    """Replace the value in HSV, keeping hue and saturation: colours scale by new / old, black becomes grey.

    Backward takes the new value as a function of the old one of the given slope, and is exact otherwise; channels that
    share the largest share its gradient.

    Args:
        images: [N, 3, H, W] in [0, 1].
        new_value, slope: [N, H, W], the first in [0, 1]; constants.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] in [0, 1].
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        replaced: Tensor = replace_values(images, new_value, slope, chosen)
        return replaced
    value = images.amax(1)
    new = (new_value + slope * (value - value.detach()))[:, None]
    coloured = (value > NOISE)[:, None]
    share = images / torch.where(coloured, value[:, None], 1.0)
    return torch.where(coloured, share, 1.0) * new


def equalise_step(bins: Tensor, most_bins: int) -> Step:
    """`equalise` of the channels of images by launchers; bins [M, C], at most `most_bins`, a row for each image of a launch."""

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        return (equalise_into(out, images, bins, most_bins),)

    def backward(to: Rows, grad: Rows, images: Rows, shares: Tensor) -> None:
        equalise_adjoint_into(to, grad, images, bins, shares)

    return Step(forward, backward)


def stretch_step(low: Tensor, high: Tensor) -> Step:
    """`stretch` of the channels of images by launchers; low and high [M, C], a row for each image of a launch."""

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        return stretch_into(out, images, low, high)

    def backward(to: Rows, grad: Rows, images: Rows, places: Tensor, numbers: Tensor) -> None:
        stretch_adjoint_into(to, grad, images, places, numbers)

    return Step(forward, backward)


def clahe_step(
    rows: Tensor, columns: Tensor, clip_limit: Tensor, per_channel: Tensor, least_side: Callable[[torch.Size], int]
) -> Step:
    """`clahe` by launchers of the channels of some RGB images, and of the value of others, which `replace_value` gives them.

    Args:
        rows, columns, clip_limit: [M, 3], a row for each image of a launch; of the value, the first.
        per_channel: [M] bool, false for the images whose value is equalised.
        least_side: of the images' size (H, W), the least side that a tile may have.
    """

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        size = images.buffer.shape[2:]
        slope = images.buffer.new_empty((len(images), 3, *size), dtype=torch.float32)
        tiles = most_tiles(size, least_side(size), least_side(size))
        clahe_into(out, images, rows, columns, clip_limit, per_channel, tiles, slope)
        return (slope,)

    def backward(to: Rows, grad: Rows, images: Rows, slope: Tensor) -> None:
        clahe_adjoint_into(to, grad, images, per_channel, slope)

    return Step(forward, backward)
