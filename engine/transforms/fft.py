"""BaRT group 5: FFT perturbation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Step
from cannonade.kernels.spectrum import perturb_spectrum_drawn, perturb_spectrum_step
from cannonade.transforms.base import Gradient, Params, Transform


@dataclass(frozen=True, kw_only=True)
class FftPerturbation(Transform):
    """Scale every frequency a little and drop the highest rows and columns of each channel's spectrum (BaRT group 5).

    The gradient is exact: the operation is linear up to its final clip. As published, a keep fraction below 1/H or 1/W
    drops every frequency, so that channel is black.

    Attributes:
        factor: range of the factor of a frequency, shared by the channels.
        keep: range of the fraction of rows and columns kept at each end of a channel's spectrum; all stay from ½ on.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT
    in_slices = "without native code"

    factor: tuple[float, float] = (0.98, 1.02)
    keep: tuple[float, float] = (0.0, 0.95)

    def __post_init__(self) -> None:
        if not self.factor[0] <= self.factor[1]:
            raise InputError(f"fft_perturbation: factor must be (low, high) with low ≤ high, got {self.factor}")
        if not 0 <= self.keep[0] <= self.keep[1] <= 1:
            raise InputError(f"fft_perturbation: keep must be (low, high) within [0, 1], got {self.keep}")

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Keep fraction per channel, and the stream of the factors."""
        return {"keep": draws.site(0).uniform(*self.keep, shape=(3,)), "stream": draws.site(1).coordinates}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Filter each image and clip."""
        return perturb_spectrum_drawn(images, params["keep"], params["stream"], *self.factor)

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return perturb_spectrum_step(params["keep"], params["stream"], *self.factor)
