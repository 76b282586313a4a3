"""Geometric defenses outside BaRT: rotation, resize and pad, crop and rescale."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Step
from cannonade.kernels.warp import Box, resize_crop, resize_crop_step, resize_pad, rotate, rotate_step
from cannonade.transforms.base import Gradient, Params, Transform
from cannonade.transforms.scaling import check_probability, check_reference, scaled


@dataclass(frozen=True, kw_only=True)
class Rotation(Transform):
    """Rotate by an angle ~ U(−degrees, degrees) about the middle of the image, bilinearly; zeros come in from outside.

    Gradient: exact; the result is linear in the image.

    Source: Raff et al., CVPR 2019, whose text says ±90° (their code draws ±45°).

    Attributes:
        degrees: the largest angle, in [0, 180].
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    degrees: float = 90.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise InputError(f"Rotation: degrees must be in [0, 180], got {self.degrees}")

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `degrees`: [N] float32, positive angles counter-clockwise."""
        return {"degrees": draws.site(0).uniform(-self.degrees, self.degrees)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Rotate each image by its angle."""
        return rotate(images, params["degrees"])

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return rotate_step(params["degrees"])


@dataclass(frozen=True, kw_only=True)
class RandomResizePad(Transform):
    """Resize to a random square and put it at a random place on a constant square of fixed size.

    The result is pad × pad whatever the size of the images, so it can differ from theirs. Images that are not square
    are stretched, and those larger than `low` made smaller without anti-aliasing.

    Gradient: exact; the result is linear in the image up to `fill`.

    Source: Xie, Wang, Zhang, Ren and Yuille, "Mitigating adversarial effects through randomization", ICLR 2018. Their
    code resizes to the nearest pixel and pads pixels of [−1, 1] with 0, which is 0.5 in [0, 1]: see `as_published`.

    Attributes:
        low: smallest side of the resized image.
        high: one more than its largest side, which is uniform over the integers; at most pad + 1.
        pad: side of the result.
        p: probability of resizing at random and padding; else the image is resized to pad × pad. The published defense
            has 1; the input diversity of Xie et al. (CVPR 2019), an attack, has .5 and leaves the rest as they are.
        interpolation: "nearest" (as published) or "bilinear".
        fill: value around the image, in [0, 1].
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    low: int = 224
    high: int = 256
    pad: int = 256
    p: float = 1.0
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.low < self.high <= self.pad + 1:
            raise InputError(
                "RandomResizePad: low, high and pad must satisfy 1 ≤ low < high ≤ pad + 1, "
                f"got low={self.low}, high={self.high}, pad={self.pad}"
            )
        check_probability("RandomResizePad: p", self.p)
        if self.interpolation not in ("nearest", "bilinear"):
            raise InputError(
                f"RandomResizePad: interpolation must be 'nearest' or 'bilinear', got {self.interpolation!r}"
            )
        if not 0 <= self.fill <= 1:
            raise InputError(f"RandomResizePad: fill must be a pixel value in [0, 1], got {self.fill}")

    @classmethod
    def as_published(cls) -> Self:
        """The paper's defense of 299 × 299 images: to a side in [299, 331), padded with grey to 331 × 331."""
        return cls(low=299, high=331, pad=331, fill=0.5)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `side`, `top` and `left`: [N] int64 in pixels, the resized image's side and its first pixel's place."""
        side = draws.site(0).integers(self.low, self.high - 1)
        side = side.where(draws.site(1).bernoulli(self.p), self.pad)
        top, left = draws.site(2).integers(0, self.pad - side[:, None], (2,)).unbind(1)
        return {"side": side, "top": top, "left": left}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Resize and pad each image: [N, 3, pad, pad]."""
        return resize_pad(
            images, params["side"], params["top"], params["left"], self.pad, self.interpolation, self.fill
        )


@dataclass(frozen=True, kw_only=True)
class RandomCropRescale(Transform):
    """Cut out a random square and rescale it to the size of the image, bilinearly.

    Gradient: exact; the result is linear in the image.

    Source: Guo, Rana, Cissé and van der Maaten, "Countering adversarial images using input transformations", ICLR 2018:
    crops of 90 pixels from images of 224, of which 30 are averaged for a prediction.

    Attributes:
        crop: side of the square in pixels.
        reference_size: image side that `crop` is written for: it scales with the image, its rows with the height and
            its columns with the width, so `crop / reference_size` is the fraction kept; None takes it as it stands.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    crop: int = 90
    reference_size: int | None = 224

    def __post_init__(self) -> None:
        check_reference("RandomCropRescale", self.reference_size)
        if not 1 <= self.crop <= (self.reference_size or self.crop):
            most = "" if self.reference_size is None else f" and at most reference_size={self.reference_size}"
            raise InputError(f"RandomCropRescale: crop must be at least 1{most}, got {self.crop}")

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `top` and `left`; `height` and `width` are the same for all: [N] int64 in pixels.

        Raises:
            InputError: the images are smaller than the crop.
        """
        height, width = (scaled(self.crop, side, self.reference_size) for side in shape[-2:])
        if height > shape[-2] or width > shape[-1]:
            raise InputError(
                f"RandomCropRescale: images of {shape[-2]}x{shape[-1]} pixels are too small for crops of {self.crop}; "
                "make crop smaller or give a reference_size"
            )
        top = draws.site(0).integers(0, shape[-2] - height)
        left = draws.site(1).integers(0, shape[-1] - width)
        return {
            "top": top,
            "left": left,
            "height": torch.full_like(top, height),
            "width": torch.full_like(left, width),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Enlarge the crop of each image."""
        return resize_crop(images, _box(params), border="edge")

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return resize_crop_step(lambda height, width: _box(params), border="edge")


def _box(params: Params) -> Box:
    return Box(params["top"], params["left"], params["height"], params["width"])
