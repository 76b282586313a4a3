"""Block-wise DCT quantisation, the deterministic compression defense beside JPEG in the paper's authors' code."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.transforms.base import Gradient, Params, Transform, straight_through


@dataclass(frozen=True, kw_only=True)
class Dct(Transform):
    """Quantise the orthonormal DCT of every block of every channel: coarsely, and more so its higher frequencies.

    The image is padded with zeros on all sides to whole blocks, and cropped again; the result is clamped to [0, 1], which the
    authors leave to whoever calls it. Nothing is random. The gradient is the identity's (BPDA), as in their code: the rounding
    has none of its own. Computed in float64, so that no coefficient falls to another side in another batch.

    Attributes:
        block: side of a block.
        low: quantiser step of the lower half of both frequencies, in units of 1/255.
        high: step of all others.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH

    block: int = 8
    low: float = 25.0
    high: float = 30.0

    def __post_init__(self) -> None:
        if self.block < 2 or not (self.low > 0 and self.high > 0):
            raise InputError(
                f"dct: block must be at least 2, low and high above 0, got {self.block}, {self.low} and {self.high}"
            )

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Nothing to draw."""
        return {}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Quantise every block."""
        height, width = images.shape[2:]
        top, left = (-height % self.block) // 2, (-width % self.block) // 2
        bottom, right = -height % self.block - top, -width % self.block - left
        padded = F.pad(images.detach().double() * 255, (left, right, top, bottom))
        blocks = padded.unflatten(3, (-1, self.block)).unflatten(2, (-1, self.block)).transpose(3, 4)
        basis, step = self._basis(images.device), self._steps(images.device)
        quantised = torch.round(basis @ blocks @ basis.T / step) * step
        value = (basis.T @ quantised @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3) / 255
        value = value[:, :, top : top + height, left : left + width].clamp(0, 1)
        return straight_through(value.to(images.dtype), images)

    def _basis(self, device: torch.device) -> Tensor:
        """[block, block], the rows of the orthonormal DCT-II."""
        place = torch.arange(self.block, dtype=torch.float64, device=device)
        basis = torch.cos(math.pi / self.block * (place + 0.5) * place[:, None]) * math.sqrt(2 / self.block)
        basis[0] /= math.sqrt(2)
        return basis

    def _steps(self, device: torch.device) -> Tensor:
        steps = torch.full((self.block, self.block), self.high, dtype=torch.float64, device=device)
        steps[: self.block // 2, : self.block // 2] = self.low
        return steps
