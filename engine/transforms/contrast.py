"""BaRT group 8: contrast."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.kernels.device.rows import Step
from cannonade.kernels.groups import by_group
from cannonade.kernels.histogram import (
    clahe,
    clahe_step,
    equalise,
    equalise_step,
    replace_value,
    stretch,
    stretch_step,
)
from cannonade.transforms.base import Gradient, Params, Transform, straight_through
from cannonade.transforms.scaling import check_range


@dataclass(frozen=True, kw_only=True)
class HistogramEqualisation(Transform):
    """Spread each channel's values evenly, by their distribution function, linear between bin centres.

    A constant channel stays unchanged.

    Gradient: exact, with the counts as constants; that the bins move with the channel's least and largest value is
    kept.

    Source: Raff et al., CVPR 2019, group 8.

    Attributes:
        bins: ends of each channel's number of bins, uniform over the integers.
        shared: probability of one number of bins for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT
    in_slices = "without native code"

    bins: tuple[int, int] = (40, 256)
    shared: float = 0.0

    def __post_init__(self) -> None:
        check_range("HistogramEqualisation: bins", *self.bins, least=2, most=65536)
        check_range("HistogramEqualisation: (0, shared)", 0.0, self.shared, least=0.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `bins`: [N, 3] int64, the number of bins of each channel."""
        bins = draws.site(0).integers(*self.bins, (3,))
        shared = draws.site(1).bernoulli(self.shared)
        return {"bins": torch.where(shared[:, None], bins[:, :1], bins)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Equalise each channel."""
        return equalise(images.flatten(0, 1), params["bins"].flatten(), most_bins=self.bins[1]).view(images.shape)

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return equalise_step(params["bins"], self.bins[1])


@dataclass(frozen=True, kw_only=True)
class AdaptiveHistogramEqualisation(Transform):
    """Contrast-limited adaptive histogram equalisation (CLAHE) of each channel, or of the value in HSV.

    A channel or value that is constant stays unchanged.

    Gradient: straight-through, as the operation rounds to 14 bits and looks up. Backward takes the slope of the
    interpolated look-up, with the tables and the ends of both stretches as constants, and is exact through HSV.

    Source: Raff et al., CVPR 2019, group 8.

    Attributes:
        side: ends of the tiles' two sides, as parts of the image's smaller side; uniform over the integers between.
        clip_limit: ends of the share of a tile's pixels that one bin may hold, uniform.
        per_channel: probability of equalising every channel, with its own parameters, else the value.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH
    in_slices = "without native code"

    side: tuple[float, float] = (1 / 10, 1 / 6)
    clip_limit: tuple[float, float] = (0.01, 0.04)
    per_channel: float = 0.5

    def __post_init__(self) -> None:
        check_range("AdaptiveHistogramEqualisation: side", *self.side, least=0.0, most=1.0)
        check_range("AdaptiveHistogramEqualisation: clip_limit", *self.clip_limit, least=0.0, most=1.0)
        check_range("AdaptiveHistogramEqualisation: (0, per_channel)", 0.0, self.per_channel, least=0.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `rows` and `columns` [N, 3] int64 in pixels, `clip_limit` [N, 3] float32 and `per_channel` [N] bool.

        Where `per_channel` is false the first of the three serves the value, and the others repeat it.
        """
        least, most = (_side(shape, part) for part in self.side)
        per_channel = draws.site(3).bernoulli(self.per_channel)
        own = {
            "rows": draws.site(0).integers(least, most, (3,)),
            "columns": draws.site(1).integers(least, most, (3,)),
            "clip_limit": draws.site(2).uniform(*self.clip_limit, (3,)),
        }
        params = {key: torch.where(per_channel[:, None], value, value[:, :1]) for key, value in own.items()}
        return {**params, "per_channel": per_channel}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Equalise the channels of some images and the value of the others."""
        names = ("rows", "columns", "clip_limit")

        def of_channels(rows: Tensor) -> Tensor:
            planes = images.index_select(0, rows).flatten(0, 1)
            value, slope = _equalised(planes, *(params[name][rows].flatten() for name in names))
            return straight_through(value, planes * slope).view(-1, *images.shape[1:])

        def of_value(rows: Tensor) -> Tensor:
            chosen = images.index_select(0, rows)
            return replace_value(chosen, *_equalised(chosen.amax(1), *(params[name][rows, 0] for name in names)))

        return by_group(params["per_channel"].long(), lambda key, rows: of_channels(rows) if key else of_value(rows))

    def step(self, params: Params) -> Step:
        """The same by launchers, one sequence of launches for all images."""
        rows, columns, clip_limit = (params[name] for name in ("rows", "columns", "clip_limit"))
        return clahe_step(rows, columns, clip_limit, params["per_channel"], lambda size: _side(size, self.side[0]))


def _side(size: torch.Size, part: float) -> int:
    """A part of the smaller of an image's sides, the last two of `size`, in pixels."""
    return max(1, int(min(size[-2:]) * part + 0.5))


def _equalised(planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor) -> tuple[Tensor, Tensor]:
    """CLAHE of planes [P, H, W] and its slope, 0 where no gradient is wanted."""
    with_slope = planes.requires_grad and torch.is_grad_enabled()
    value, slope = clahe(planes.detach(), rows, columns, clip_limit, with_slope)
    return value, value.new_zeros(()).expand_as(value) if slope is None else slope


@dataclass(frozen=True, kw_only=True)
class ContrastStretching(Transform):
    """Stretch each channel so that two of its percentiles become 0 and 1, and clip.

    Where the two coincide, as in a constant channel, every value becomes that percentile.

    Gradient: exact, the clip's zeros and the percentiles' dependence on the values they lie between included.

    Source: Raff et al., CVPR 2019, group 8.

    Attributes:
        low, high: ends of the two percentiles, as shares in [0, 1], uniform.
        shared: probability of one pair of shares for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT
    in_slices = "without native code"

    low: tuple[float, float] = (0.01, 0.04)
    high: tuple[float, float] = (0.96, 0.99)
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_range("ContrastStretching: low", *self.low, least=0.0, most=1.0)
        check_range("ContrastStretching: high", *self.high, least=self.low[1], most=1.0)
        check_range("ContrastStretching: (0, shared)", 0.0, self.shared, least=0.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `low` and `high`: [N, 3] float32, shares of each channel's values."""
        shared = draws.site(2).bernoulli(self.shared)[:, None]
        low, high = (draws.site(site).uniform(*ends, (3,)) for site, ends in enumerate((self.low, self.high)))
        return {"low": torch.where(shared, low[:, :1], low), "high": torch.where(shared, high[:, :1], high)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Stretch each channel."""
        return stretch(images.flatten(0, 1), params["low"].flatten(), params["high"].flatten()).view(images.shape)

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return stretch_step(params["low"], params["high"])
