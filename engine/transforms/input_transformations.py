"""The input transformations of Guo et al., "Countering adversarial images using input transformations", ICLR 2018.

Random cropping and rescaling, their fifth, is geometry. All four here are straight-through: they are constant almost
everywhere, random, or costly to differentiate, and were broken with backward taken as the identity
(Athalye, Carlini and Wagner, ICML 2018).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws, Stream
from cannonade.errors import InputError
from cannonade.kernels.inpainting import inpaint_total_variation
from cannonade.kernels.jpeg import jpeg
from cannonade.kernels.quilting import quilt, tile_counts
from cannonade.transforms.base import Gradient, Params, Transform, straight_through
from cannonade.transforms.jpeg import Rounding, check_rounding


@dataclass(frozen=True, kw_only=True)
class BitDepthReduction(Transform):
    """Quantisation to a few bits; nothing random. The gradient is the identity's.

    Attributes:
        bits: per channel, 1 to 8.
        rounding: "nearest" is round(x·(2^bits − 1))/(2^bits − 1) (Xu et al., NDSS 2018, whom Guo et al. follow);
            "truncate" clears the low bits of ⌊255·x⌋, as the published attack on the defense did.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH

    bits: int = 3
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise InputError(f"bit_depth_reduction: bits must be 1 to 8, got {self.bits}")
        check_rounding("bit_depth_reduction", self.rounding)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Quantise every value."""
        x = images.detach()
        if self.rounding == "nearest":
            top = 2**self.bits - 1
            value = (x * top).round_().div_(top)
        else:
            step = 2 ** (8 - self.bits)
            value = (x * 255).floor_().div_(step).floor_().mul_(step / 255)
        return straight_through(value, images)


@dataclass(frozen=True, kw_only=True)
class Jpeg(Transform):
    """A JPEG round trip of one quality; nothing random. Computation and gradient are those of `JpegNoise`.

    Attributes:
        quality: 1 to 100.
        rounding: how the image is made 8-bit first: "truncate" is ⌊255·x⌋, "nearest" is round(255·x).
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH
    least_side: ClassVar[int] = 6

    quality: int = 75
    rounding: Rounding = "truncate"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise InputError(f"jpeg: quality must be 1 to 100, got {self.quality}")
        check_rounding("jpeg", self.rounding)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """The same quality for every image."""
        return {"quality": torch.full_like(draws.images, self.quality)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Compress and decompress each image."""
        return jpeg(images, params["quality"], nearest=self.rounding == "nearest")


@dataclass(frozen=True, kw_only=True)
class TotalVarianceMinimisation(Transform):
    """Keep a random set of pixels and replace the image by the one of least total variation that agrees with them.

    z minimises Σ over kept pixels of (z − x)² + weight · TV₂(z). Guo et al. solved it with split Bregman iterations;
    here all images take the same number of primal-dual steps. After 100 they are within a mean of 5e-4 of the
    minimiser, while the transform moves a photo by 2e-2. The mask is drawn per pixel, for all channels. The gradient is
    the identity's.

    Attributes:
        keep: probability of keeping a pixel, in (0, 1].
        weight: of the total variation, λ_TV.
        iterations: number of primal-dual steps.
        isotropic: √(dx² + dy²), as Guo et al.'s code, or |dx| + |dy|, as the published attack's.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH

    keep: float = 0.5
    weight: float = 0.03
    iterations: int = 100
    isotropic: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InputError(f"total_variance_minimisation: keep must be in (0, 1], got {self.keep}")
        if not self.weight > 0 or self.iterations < 1:
            raise InputError(
                "total_variance_minimisation: weight must be above 0 and iterations at least 1, "
                f"got {self.weight} and {self.iterations}"
            )

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """The stream of each image's mask."""
        return {"stream": draws.site(0).coordinates}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Reconstruct each image from its kept pixels."""
        kept = Stream(params["stream"]).bernoulli(self.keep, images.shape[-2:])
        value = inpaint_total_variation(images.detach(), kept, self.weight, self.iterations, self.isotropic)
        return straight_through(value, images)


def _example_bank() -> Tensor:
    """64 shaded colours, 5×5 pixels: enough to run the code, no defense."""
    levels = torch.linspace(0, 1, 4)
    shade = torch.linspace(0.8, 1.0, 25).reshape(5, 5)
    return torch.cartesian_prod(levels, levels, levels)[:, :, None, None] * shade


@dataclass(frozen=True, kw_only=True)
class ImageQuilting(Transform):
    """Replace every tile of the image by one of its nearest patches in a bank of clean patches, at random.

    Neighbouring tiles are joined along minimum-cut seams (see `quilt`). Guo et al. used a million 5×5 patches of
    ImageNet's training images. The gradient is the identity's.

    Attributes:
        bank: [M, 3, p, p] in [0, 1]; `patch_bank` makes one. Without it the transform cannot sample.
        neighbours: number of nearest patches to choose from, uniformly.
        overlap: of neighbouring tiles in pixels, at most p/2.
        digest: of the bank's values, which stands for the bank in `repr` and in comparisons.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH
    example: ClassVar[Mapping[str, Any]] = {"bank": _example_bank()}

    bank: Tensor | None = field(default=None, repr=False, compare=False)
    neighbours: int = 10
    overlap: int = 2
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.bank is None:
            return
        shape = list(self.bank.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not self.bank.is_floating_point():
            raise InputError(f"image_quilting: bank must be [M, 3, p, p] of floats, got {shape} {self.bank.dtype}")
        if not 1 <= self.neighbours <= shape[0]:
            raise InputError(f"image_quilting: neighbours must be 1 to the bank's {shape[0]}, got {self.neighbours}")
        if not 1 <= self.overlap <= shape[3] // 2:
            raise InputError(f"image_quilting: overlap must be 1 to half of {shape[3]}, got {self.overlap}")
        low, high = (float(end) for end in self.bank.aminmax())
        if not (low >= 0 and high <= 1):
            raise InputError(f"image_quilting: bank must be in [0, 1], got values from {low} to {high}: divide by 255?")
        values = self.bank.detach().float().cpu().contiguous().numpy()
        object.__setattr__(self, "digest", hashlib.sha256(values.data).hexdigest()[:16])

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """The stream of each image's choices."""
        self._patches()
        return {"stream": draws.site(0).coordinates}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Quilt each image."""
        bank = self._patches().to(images.device)
        if min(images.shape[-2:]) < bank.shape[-1]:
            raise InputError(
                f"image_quilting: image sides must be at least the patches' {bank.shape[-1]}, "
                f"got {list(images.shape[-2:])}: use smaller patches"
            )
        grid = tile_counts(images.shape, bank.shape[-1], self.overlap)
        choice = Stream(params["stream"]).integers(0, self.neighbours - 1, grid)
        return straight_through(quilt(images.detach(), bank, choice, self.neighbours, self.overlap), images)

    def _patches(self) -> Tensor:
        if self.bank is None:
            raise InputError(
                "image_quilting: bank must be a tensor [M, 3, p, p] of clean patches, got None: "
                "pass ImageQuilting(bank=patch_bank(images, draws, count))"
            )
        return self.bank


def patch_bank(images: Tensor, draws: Draws, count: int, size: int = 5) -> Tensor:
    """Random patches of clean images, for `ImageQuilting`.

    Args:
        images: [N, 3, H, W] in [0, 1], H and W ≥ size.
        draws: N streams.
        count: patches from each image.
        size: side of a patch in pixels.

    Returns:
        [N·count, 3, size, size], image by image.

    Raises:
        InputError: an image is smaller than a patch.
    """
    height, width = images.shape[-2:]
    if min(height, width) < size:
        raise InputError(f"patch_bank: image sides must be at least {size}, got {height}×{width}: use a smaller size")
    local = torch.arange(size, device=images.device)
    y = draws.site(0).integers(0, height - size, (count, 1, 1)) + local[:, None]
    x = draws.site(1).integers(0, width - size, (count, 1, 1)) + local
    rows = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[rows, y, x].movedim(-1, 2).flatten(0, 1)
