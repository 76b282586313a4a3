"""BaRT group 3: swirl."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.kernels.device.rows import Step
from cannonade.kernels.warp import swirl, swirl_step
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_range, check_reference, scaled


@dataclass(frozen=True, kw_only=True)
class Swirl(Transform):
    """Turn the image about a random centre by an angle that dies away with the distance from it.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, group 3.

    Attributes:
        strength: ends of the angle at the centre in radians, uniform.
        radius: ends of the radius in pixels, uniform over the integers; beyond it about 1/1000 of the angle is left.
        centre: ends of the centre's column and row in pixels, uniform over the integers.
        reference_size: image side that `radius` and `centre` are written for: they scale with the image, the radius
            with its smaller side (and no less than 3); None takes them as they stand.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    strength: tuple[float, float] = (0.01, 2.0)
    radius: tuple[int, int] = (10, 200)
    centre: tuple[int, int] = (1, 256)
    reference_size: int | None = 256

    def __post_init__(self) -> None:
        check_range("Swirl: strength", *self.strength, least=float("-inf"))
        check_range("Swirl: radius", *self.radius, least=1)
        check_range("Swirl: centre", *self.centre, least=0)
        check_reference("Swirl", self.reference_size)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `strength` [N] float32; `radius`, `x` and `y` [N] int64 in pixels."""
        height, width = shape[-2:]
        smaller = min(height, width)
        narrowest, widest = (scaled(end, smaller, self.reference_size, least=3) for end in self.radius)
        left, right = (scaled(end, width, self.reference_size) for end in self.centre)
        top, bottom = (scaled(end, height, self.reference_size) for end in self.centre)
        return {
            "strength": draws.site(0).uniform(*self.strength),
            "radius": draws.site(1).integers(narrowest, widest),
            "x": draws.site(2).integers(left, right),
            "y": draws.site(3).integers(top, bottom),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Swirl each image."""
        return swirl(images, params["strength"], params["radius"], params["x"], params["y"])

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return swirl_step(params["strength"], params["radius"], params["x"], params["y"])
