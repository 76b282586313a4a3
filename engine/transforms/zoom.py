"""BaRT group 6: zoom, by cropping and by carving seams."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Step
from cannonade.kernels.seams import carve
from cannonade.kernels.warp import Box, resize_crop, resize_crop_step
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_probability, check_range, check_reference, scaled, scaled_draws


@dataclass(frozen=True, kw_only=True)
class RandomZoom(Transform):
    """Cut a random margin off each side and enlarge what is left to the size of the image, bilinearly.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 6.

    Attributes:
        margin: ends of the four margins in pixels, uniform over the integers.
        reference_size: smaller image side that `margin` is written for: it scales with the image; None takes it as it
            stands.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    margin: tuple[int, int] = (10, 50)
    reference_size: int | None = 256

    def __post_init__(self) -> None:
        check_range("RandomZoom: margin", *self.margin, least=0)
        check_reference("RandomZoom", self.reference_size)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `margins`: [N, 4] int64, pixels cut off above, below, left and right.

        Raises:
            InputError: two of the largest margins leave nothing of the image.
        """
        smaller = min(shape[-2:])
        low, high = (scaled(end, smaller, self.reference_size) for end in self.margin)
        if 2 * high >= smaller:
            raise InputError(
                f"RandomZoom: images of {shape[-2]}x{shape[-1]} pixels are too small for margins up to {high} on every "
                f"side; each image side must be at least {2 * high + 1}"
            )
        return {"margins": draws.site(0).integers(low, high, (4,))}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Enlarge the inside of each image."""
        return resize_crop(images, _inside(params["margins"], *images.shape[-2:]), border="mirror")

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return resize_crop_step(partial(_inside, params["margins"]), border="mirror")


def _inside(margins: Tensor, height: int, width: int) -> Box:
    """What margins [N, 4] leave of images."""
    above, below, left, right = margins.unbind(1)
    return Box(above, left, height - above - below, width - left - right)


@dataclass(frozen=True, kw_only=True)
class SeamCarvingExpansion(Transform):
    """Carve random numbers of seams out of the image and enlarge what is left to its size, bilinearly.

    Vertical seams go first, then (where both axes are carved) horizontal ones. One minimal seam is taken at a time, and
    the energy is computed once per axis and carved along with the image. This simplifies the published transform: its
    `skimage.transform.seam_carve`, since removed, took several seams that do not cross in one pass.

    Gradient: exact through the resampling, the seams constant.

    Source: Raff et al., CVPR 2019, group 6.

    Attributes:
        seams: ends of the numbers of seams r1 and r2, uniform over the integers.
        both: probability of carving r1 vertical and r2 horizontal seams. Else r1 seams are carved from one axis:
            vertical ones if r2 < `threshold`, horizontal ones otherwise.
        threshold: see `both`; compared with r2 before scaling.
        reference_size: smaller image side that `seams` is written for: r1 and r2 scale with the image; None takes them
            as they stand.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    seams: tuple[int, int] = (10, 50)
    both: float = 0.5
    threshold: int = 30
    reference_size: int | None = 256

    def __post_init__(self) -> None:
        check_range("SeamCarvingExpansion: seams", *self.seams, least=0)
        check_probability("SeamCarvingExpansion: both", self.both)
        check_reference("SeamCarvingExpansion", self.reference_size)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `vertical` and `horizontal`: [N] int64, seams to carve, which cost columns and rows.

        Raises:
            InputError: the most seams leave fewer than two columns or rows.
        """
        smaller = min(shape[-2:])
        most = scaled(self.seams[1], smaller, self.reference_size)
        if most > smaller - 2:
            raise InputError(
                f"SeamCarvingExpansion: images of {shape[-2]}x{shape[-1]} pixels are too small for {most} seams; each "
                f"image side must be at least {most + 2}"
            )
        # What is drawn is the number before scaling, so that the threshold has its published probability at any size.
        first, second = draws.site(0).integers(*self.seams, (2,)).unbind(1)
        both = draws.site(1).bernoulli(self.both)
        vertical = both | (second < self.threshold)
        first, second = (scaled_draws(seams, smaller, self.reference_size) for seams in (first, second))
        horizontal = torch.where(both, second, first.where(~vertical, 0))
        return {"vertical": first.where(vertical, 0), "horizontal": horizontal}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Carve each image and enlarge what is left."""
        carved, box = carve(images, params["vertical"], params["horizontal"])
        return resize_crop(carved, box, border="mirror")
