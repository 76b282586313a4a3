"""BaRT group 10, the window filters: Gaussian blur, median, mean and mean bilateral."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.kernels.blur import blur_step, gaussian_blur
from cannonade.kernels.device.rows import Step
from cannonade.kernels.median import disk_median, disk_median_step
from cannonade.kernels.window import bilateral_mean, bilateral_mean_step, disk_mean, disk_mean_step
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_probability, check_range

# Lowers a strict bound by less than a value's step, so that 8-bit values that meet it meet it in float32 too.
_STRICT = 1e-3


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Transform):
    """Gaussian blur over the pixels at most ⌊4σ + ½⌋ away, edge pixels repeated outside.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 10.

    Attributes:
        sigma: ends of the standard deviation, in pixels.
        shared: probability of one σ for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    sigma: tuple[float, float] = (0.1, 3.0)
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_range("GaussianBlur: sigma", *self.sigma, least=0.01, most=100)
        check_probability("GaussianBlur: shared", self.shared)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `sigma`: [N, 3] float32."""
        sigma = draws.site(0).uniform(*self.sigma, (3,))
        return {"sigma": _shared(draws, 1, self.shared, sigma)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Blur each channel."""
        return gaussian_blur(images, params["sigma"][:, :, None].expand(-1, -1, 2))

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return blur_step(params["sigma"][:, :, None].expand(-1, -1, 2))


@dataclass(frozen=True, kw_only=True)
class MedianFilter(Transform):
    """Upper median of the pixels of a disk that lie inside the image.

    Gradient: exact; it goes to the pixel selected, the first in raster order among equals.

    Source: Raff et al., CVPR 2019, group 10; the rank filter of scikit-image.

    Attributes:
        radius: ends of the disk's radius in pixels, uniform over the integers.
        shared: probability of one radius for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    radius: tuple[int, int] = (2, 5)
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_range("MedianFilter: radius", *self.radius, least=0, most=100)
        check_probability("MedianFilter: shared", self.shared)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `radius`: [N, 3] int64."""
        radius = draws.site(0).integers(*self.radius, (3,))
        return {"radius": _shared(draws, 1, self.shared, radius)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Take the median around each pixel."""
        return disk_median(images, params["radius"])

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return disk_median_step(params["radius"])


@dataclass(frozen=True, kw_only=True)
class MeanFilter(Transform):
    """Mean of the pixels of a disk that lie inside the image.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 10; the rank filter of scikit-image, without its rounding down to 8 bits.

    Attributes:
        radius: ends of the disk's radius in pixels, uniform over the integers.
        shared: probability of one radius for all three channels, else one each.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    radius: tuple[int, int] = (2, 3)
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_range("MeanFilter: radius", *self.radius, least=0, most=100)
        check_probability("MeanFilter: shared", self.shared)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `radius`: [N, 3] int64."""
        radius = draws.site(0).integers(*self.radius, (3,))
        return {"radius": _shared(draws, 1, self.shared, radius)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Take the mean around each pixel."""
        return disk_mean(images, params["radius"])

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return disk_mean_step(params["radius"])


@dataclass(frozen=True, kw_only=True)
class MeanBilateralFilter(Transform):
    """Mean of the disk's pixels inside the image whose value v has g − s1/255 < v < g + s0/255, g the centre's value.

    Gradient: exact, which pixels are averaged taken as constant: it changes at jumps only.

    Source: Raff et al., CVPR 2019, group 10; the rank filter of scikit-image as it computes (its documentation has the
    bounds the other way round), without its rounding down to 8 bits.

    Attributes:
        radius: ends of the disk's radius in pixels, uniform over the integers, one for each channel.
        spread: ends of s0 and s1, in steps of 1/255, uniform over the integers, one of each for each channel.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    radius: tuple[int, int] = (2, 20)
    spread: tuple[int, int] = (5, 20)

    def __post_init__(self) -> None:
        check_range("MeanBilateralFilter: radius", *self.radius, least=0, most=100)
        check_range("MeanBilateralFilter: spread", *self.spread, least=1, most=256)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `radius`, `s0` and `s1`: [N, 3] int64 each."""
        return {
            "radius": draws.site(0).integers(*self.radius, (3,)),
            "s0": draws.site(1).integers(*self.spread, (3,)),
            "s1": draws.site(2).integers(*self.spread, (3,)),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Take the mean of the similar pixels around each pixel."""
        return bilateral_mean(images, *self._members(params))

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return bilateral_mean_step(*self._members(params))

    def _members(self, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        """The radius, and how far below and above the centre's value the members may lie."""
        below, above = ((params[name].double() - _STRICT) / 255 for name in ("s1", "s0"))
        return params["radius"], below, above


def _shared(draws: Draws, site: int, probability: float, values: Tensor) -> Tensor:
    """[N, 3] values, the first of which is taken for all channels with this probability."""
    return torch.where(draws.site(site).bernoulli(probability)[:, None], values[:, :1], values)
