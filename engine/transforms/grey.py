"""BaRT group 9: mixes of the channels towards grey."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws, Stream
from cannonade.kernels.device.pointwise import Operation
from cannonade.kernels.pointwise import mix_channels
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_range


def _weights(stream: Stream, count: int) -> Tensor:
    """[N, count] float32: uniform numbers over their sum, which 2⁻²⁴ as the least of them keeps from being 0."""
    numbers = stream.uniform(2.0**-24, 1.0, (count,))
    return numbers / numbers.sum(1, keepdim=True)


def _mix_of_others(channel: Tensor, weights: Tensor) -> Tensor:
    """[N, 3]: 0 at `channel` [N], and the two weights [N, 2] at the other channels in ascending order."""
    first = (channel == 0).long()
    second = 2 - (channel == 2).long()
    mix = weights.new_zeros(len(channel), 3)
    return mix.scatter_(1, torch.stack((first, second), dim=1), weights)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)


class _Mix(Transform):
    """A matrix for each image, of weighted means of its channels."""

    gradient: ClassVar[Gradient] = Gradient.EXACT
    operation = Operation.MIX

    @abstractmethod
    def matrix(self, params: Params) -> Tensor:
        """[N, 3, 3], row = channel of the result; each row sums to 1."""

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Mix the channels of each image."""
        return mix_channels(images, self.matrix(params))

    def operation_parameters(self, params: Params) -> Tensor:
        """The matrices, row by row."""
        return self.matrix(params).flatten(1)


@dataclass(frozen=True, kw_only=True)
class GreyScaleMix(_Mix):
    """All three channels become one weighted mean of them.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 9.
    """

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `weights`: [N, 3] float32, uniform numbers over their sum."""
        return {"weights": _weights(draws.site(0), 3)}

    def matrix(self, params: Params) -> Tensor:
        """The weights in every row."""
        return params["weights"][:, None].expand(-1, 3, -1)


@dataclass(frozen=True, kw_only=True)
class GreyScalePartialMix(_Mix):
    """Each channel moves towards one weighted mean of all three, by its own share.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 9.

    Attributes:
        least: smallest share p of itself that a channel keeps: p is the larger of `least` and U(0, 1).
    """

    least: float = 0.2

    def __post_init__(self) -> None:
        check_range("GreyScalePartialMix: (least, 1)", self.least, 1.0, least=0.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `weights` and `kept`: [N, 3] float32, the mean's weights and each channel's share of itself."""
        kept = draws.site(1).uniform(shape=(3,)).clamp(min=self.least)
        return {"weights": _weights(draws.site(0), 3), "kept": kept}

    def matrix(self, params: Params) -> Tensor:
        """Mix grey into the channels of each image."""
        kept = params["kept"][:, :, None]
        return kept * _identity(kept) + (1 - kept) * params["weights"][:, None]


@dataclass(frozen=True, kw_only=True)
class TwoThirdsGreyScaleMix(_Mix):
    """Two channels become one weighted mean of them; the third is kept.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 9.
    """

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `channel`: [N] int64, the one kept, and `weights`: [N, 2] float32, of the others in ascending order."""
        return {"channel": draws.site(0).integers(0, 2), "weights": _weights(draws.site(1), 2)}

    def matrix(self, params: Params) -> Tensor:
        """Mix two channels of each image."""
        mix = _mix_of_others(params["channel"], params["weights"])
        kept = _identity(mix)[params["channel"]][:, :, None]
        return kept * _identity(mix) + (1 - kept) * mix[:, None]


@dataclass(frozen=True, kw_only=True)
class OneChannelPartialGrey(_Mix):
    """One channel moves towards a weighted mean of the other two, which are kept.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 9.

    Attributes:
        share: ends of the share p of the mean in the result p·mean + (1 − p)·channel, uniform.
    """

    share: tuple[float, float] = (0.1, 0.9)

    def __post_init__(self) -> None:
        check_range("OneChannelPartialGrey: share", *self.share, least=0.0, most=1.0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `channel`: [N] int64; `weights` of the others in ascending order: [N, 2]; `share`: [N] float32."""
        return {
            "channel": draws.site(0).integers(0, 2),
            "weights": _weights(draws.site(1), 2),
            "share": draws.site(2).uniform(*self.share),
        }

    def matrix(self, params: Params) -> Tensor:
        """Mix grey into one channel of each image."""
        mix = _mix_of_others(params["channel"], params["weights"])
        moved = (_identity(mix)[params["channel"]] * params["share"][:, None])[:, :, None]
        return (1 - moved) * _identity(mix) + moved * mix[:, None]
