"""BaRT group 2: JPEG noise."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Step
from cannonade.kernels.jpeg import jpeg, jpeg_step
from cannonade.transforms.base import Gradient, Params, Transform

Rounding = Literal["truncate", "nearest"]


def check_rounding(transform: str, rounding: str) -> None:
    """Refuse an unknown way to make an image 8-bit.

    Raises:
        InputError: rounding is neither "truncate" nor "nearest".
    """
    if rounding not in ("truncate", "nearest"):
        raise InputError(f"{transform}: rounding must be 'truncate' or 'nearest', got {rounding!r}")


@dataclass(frozen=True, kw_only=True)
class JpegNoise(Transform):
    """A JPEG round trip of random quality, bit for bit libjpeg-turbo's with 4:2:0 chroma (BaRT group 2).

    The gradient is straight-through: that of the continuous chain, every rounding and the quantiser taken as the
    identity (they have zero gradient almost everywhere), the clamps to 8 bits kept where they acted.

    Attributes:
        quality: least and greatest quality, both included, within 1 … 100.
        rounding: how the image is made 8-bit first: "truncate" is ⌊255·x⌋, as published; "nearest" is round(255·x).
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH
    in_slices = "without native code"
    least_side: ClassVar[int] = 6

    quality: tuple[int, int] = (55, 95)
    rounding: Rounding = "truncate"

    def __post_init__(self) -> None:
        low, high = self.quality
        if not 1 <= low <= high <= 100:
            raise InputError(f"jpeg_noise: quality must be (low, high) within 1 to 100, got {self.quality}")
        check_rounding("jpeg_noise", self.rounding)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """One quality per image."""
        return {"quality": draws.site(0).integers(*self.quality)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Compress and decompress each image at its quality."""
        return jpeg(images, params["quality"], nearest=self.rounding == "nearest")

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return jpeg_step(params["quality"], self.rounding == "nearest")
