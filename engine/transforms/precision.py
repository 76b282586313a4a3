"""BaRT group 1: colour precision."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.kernels.device.pointwise import Operation
from cannonade.kernels.pointwise import round_colours
from cannonade.transforms.base import Gradient, Params, Transform, straight_through
from cannonade.transforms.scaling import check_probability, check_range


@dataclass(frozen=True, kw_only=True)
class ColourPrecisionReduction(Transform):
    """Round colours to multiples of 1/s: round(x·s)/s, half to even.

    Gradient: straight-through, identity; that of a rounding is zero almost everywhere.

    Source: Raff et al., CVPR 2019, group 1.

    Attributes:
        scale: ends of s, uniform over the integers.
        shared: probability of one s for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH
    operation = Operation.ROUND

    scale: tuple[int, int] = (8, 200)
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_range("ColourPrecisionReduction: scale", *self.scale, least=1)
        check_probability("ColourPrecisionReduction: shared", self.shared)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `scale`: [N, 3] int64, levels above zero of each channel."""
        scale = draws.site(0).integers(*self.scale, (3,))
        shared = draws.site(1).bernoulli(self.shared)
        return {"scale": torch.where(shared[:, None], scale[:, :1], scale)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Round each channel to its scale."""
        return straight_through(round_colours(images, params["scale"]), images)

    def operation_parameters(self, params: Params) -> Tensor:
        """The scales."""
        return params["scale"].float()
