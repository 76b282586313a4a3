"""No defense at all, for comparison."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.transforms.base import Gradient, Params, Transform


@dataclass(frozen=True, kw_only=True)
class Identity(Transform):
    """The image as it is, gradient included: the undefended classifier behind the same interface."""

    gradient: ClassVar[Gradient] = Gradient.EXACT
    least_side: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """The images themselves."""
        return images
