"""Filters with the parameter laws of `bart_gao`, the reduced BaRT of its section 6.3 experiments."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.blur import blur_step, gaussian_blur
from cannonade.kernels.device.rows import Step
from cannonade.kernels.median import box_median, box_median_step
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_range


@dataclass(frozen=True, kw_only=True)
class GaoGaussianBlur(Transform):
    """Gaussian blur over a rectangle, one for all channels, the image mirrored outside without repeating its edge.

    Gradient: exact; the result is linear in the image.

    Source: `gaussian_blur` of torchvision and of kornia, with the ranges of the `bart_gao` experiments.

    Attributes:
        sides: ends of the rectangle's height and width in pixels, uniform over the odd numbers, drawn for each axis.
        sigma: ends of the standard deviation in pixels, drawn for each axis.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    sides: tuple[int, int] = (3, 13)
    sigma: tuple[float, float] = (0.1, 3.1)

    def __post_init__(self) -> None:
        _check_sides("GaoGaussianBlur: sides", *self.sides)
        check_range("GaoGaussianBlur: sigma", *self.sigma, least=0.01)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `sides`, [N, 2] int64, and `sigma`, [N, 2] float32: vertical, then horizontal.

        Raises:
            InputError: the mirror of the widest rectangle reaches beyond the image.
        """
        if self.sides[1] // 2 >= min(shape[-2:]):
            raise InputError(
                f"GaoGaussianBlur: an image's sides must exceed half the largest of sides, {self.sides[1] // 2}, got "
                f"{shape[-2]}×{shape[-1]}: use larger images or smaller sides"
            )
        return {
            "sides": _odd(draws, 0, self.sides),
            "sigma": draws.site(1).uniform(*self.sigma, (2,)),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Blur each image."""
        return gaussian_blur(images, *self._windows(params), border="reflect")

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return blur_step(*self._windows(params), border="reflect")

    def _windows(self, params: Params) -> tuple[Tensor, Tensor]:
        """[N, 3, 2] each: σ and half the sides."""
        return _for_channels(params["sigma"]), _for_channels(params["sides"] // 2)


@dataclass(frozen=True, kw_only=True)
class GaoMedianFilter(Transform):
    """Median of a rectangle, one for all channels, zeros lying outside the image: they darken its corners.

    Gradient: exact; it goes to the pixel selected, the first in raster order among equals, and nowhere if that is a
    zero from outside.

    Source: `median_blur` of kornia before it took the border as an argument, with the ranges of the `bart_gao`
    experiments.

    Attributes:
        sides: ends of the rectangle's height and width in pixels, uniform over the odd numbers, drawn for each axis.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    sides: tuple[int, int] = (3, 13)

    def __post_init__(self) -> None:
        _check_sides("GaoMedianFilter: sides", *self.sides)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `sides`: [N, 2] int64, height and width."""
        return {"sides": _odd(draws, 0, self.sides)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Take the median around each pixel."""
        return box_median(images, _for_channels(params["sides"]))

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return box_median_step(_for_channels(params["sides"]))


def _for_channels(values: Tensor) -> Tensor:
    """[N, 2] numbers for all three channels: [N, 3, 2]."""
    return values[:, None].expand(-1, 3, -1)


def _check_sides(where: str, low: int, high: int) -> None:
    check_range(where, low, high, least=1, most=101)
    if not low % 2 or not high % 2:
        raise InputError(f"{where} must be odd, so that a pixel lies in the middle, got ({low}, {high})")


def _odd(draws: Draws, site: int, ends: tuple[int, int]) -> Tensor:
    """[N, 2] odd numbers, both ends included."""
    return 2 * draws.site(site).integers(ends[0] // 2, ends[1] // 2, (2,)) + 1
