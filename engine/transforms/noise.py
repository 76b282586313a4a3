"""Noise: BaRT's group 4 (noise injection) and the Gaussian noise of randomised smoothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cannonade.draws import Draws, Stream
from cannonade.errors import InputError
from cannonade.kernels.groups import by_group
from cannonade.kernels.pointwise import clip
from cannonade.transforms.base import Gradient, Params, Transform, straight_through

MODES = ("gaussian", "poisson", "salt", "pepper", "s&p", "speckle")


@dataclass(frozen=True, kw_only=True)
class Smoothing(Transform):
    """Randomised smoothing: x + N(mean, σ²), independent for every value (Cohen et al., ICML 2019; paper, section 5).

    The gradient is exact: the noise does not depend on the image.

    Attributes:
        sigma: standard deviation in units of [0, 1].
        mean: of the noise; 0 but in the paper's one-dimensional task.
        clip: whether the result is clipped to [0, 1]; as published it is not.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT
    least_side: ClassVar[int] = 1

    sigma: float = 0.25
    mean: float = 0.0
    clip: bool = False

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise InputError(f"smoothing: sigma must be at least 0, got {self.sigma}")

    @property
    def keeps_range(self) -> bool:
        """Only with clipping."""
        return self.clip

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """The stream of each image's noise."""
        return {"stream": draws.site(0).coordinates}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Add the stream's noise."""
        noise = Stream(params["stream"]).normal(self.mean, self.sigma, images.shape[1:])
        out = images + noise.to(images.dtype)
        return clip(out) if self.clip else out


@dataclass(frozen=True, kw_only=True)
class NoiseInjection(Transform):
    """Noise of one of six kinds, as `skimage.util.random_noise` defines them, clipped to [0, 1] (BaRT group 4).

    The gradient is exact for gaussian and speckle (the clip's zero included) and for salt, pepper and s&p (zero where the
    value was replaced); for poisson, a counting process, it is the identity's up to the clip.

    Attributes:
        modes: the kinds to choose from, uniformly.
        sigma: standard deviation of gaussian and speckle.
        amount: share of values that salt, pepper and s&p replace.
        levels: photons at full intensity in poisson: a number, or "distinct" for the published 2^⌈log2 d⌉ with d the number
            of distinct values in the image (or channel, with probability ½). The published rule makes the noise vanish on
            an image that an attack has moved off the 8-bit grid.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT
    in_slices = "without native code"
    least_side: ClassVar[int] = 1

    modes: tuple[str, ...] = MODES
    sigma: float = 0.1
    amount: float = 0.05
    levels: int | Literal["distinct"] = 256

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise InputError(f"noise_injection: modes must be some of {', '.join(MODES)}, got {self.modes}")
        if not (self.sigma >= 0 and 0 <= self.amount <= 1):
            raise InputError(
                f"noise_injection: sigma must be at least 0 and amount in [0, 1], got {self.sigma} and {self.amount}"
            )
        if self.levels != "distinct" and not 1 <= self.levels <= 1 << 18:
            raise InputError(f"noise_injection: levels must be 1 to 2^18, or 'distinct', got {self.levels}")

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Mode (index into MODES), per channel or not, and the stream of the noise itself."""
        known = torch.tensor([MODES.index(mode) for mode in self.modes])
        return {
            "mode": draws.site(0).choice(known),
            "per_channel": draws.site(1).bernoulli(0.5),
            "stream": draws.site(2).coordinates,
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Add each image's kind of noise."""
        kinds: tuple[Callable[[Tensor, Stream, Tensor], Tensor], ...] = (
            self._gaussian,
            self._poisson,
            self._impulse(salt=1.0),
            self._impulse(salt=0.0),
            self._impulse(salt=0.5),
            self._speckle,
        )

        def noisy(mode: int, rows: Tensor) -> Tensor:
            return kinds[mode](images[rows], Stream(params["stream"][rows]), params["per_channel"][rows])

        return clip(by_group(params["mode"], noisy))

    def _gaussian(self, images: Tensor, stream: Stream, per_channel: Tensor) -> Tensor:
        return images + stream.normal(0.0, self.sigma, images.shape[1:]).to(images.dtype)

    def _speckle(self, images: Tensor, stream: Stream, per_channel: Tensor) -> Tensor:
        return images + images * stream.normal(0.0, self.sigma, images.shape[1:]).to(images.dtype)

    def _impulse(self, salt: float) -> Callable[[Tensor, Stream, Tensor], Tensor]:
        """One uniform a value: below amount·salt it becomes 1, below amount it becomes 0."""

        def replaced(images: Tensor, stream: Stream, per_channel: Tensor) -> Tensor:
            uniform = stream.uniform(shape=images.shape[1:])
            extremes = (uniform < self.amount * salt).to(images.dtype)
            return torch.where(uniform < self.amount, extremes, images)

        return replaced

    def _poisson(self, images: Tensor, stream: Stream, per_channel: Tensor) -> Tensor:
        levels = self._levels(images.detach(), per_channel)
        counts = stream.poisson(images.detach().clamp(min=0) * levels)
        return straight_through(counts.to(images.dtype) / levels, images)

    def _levels(self, images: Tensor, per_channel: Tensor) -> Tensor:
        """[N, 3, 1, 1]: the levels of every channel."""
        if self.levels != "distinct":
            return images.new_full((len(images), 3, 1, 1), self.levels)
        own = _next_power_of_two(_distinct(images.flatten(2)))
        shared = _next_power_of_two(_distinct(images.flatten(1)))[:, None]
        return torch.where(per_channel[:, None], own, shared)[..., None, None].to(images.dtype)


def _distinct(values: Tensor) -> Tensor:
    """How many different numbers the last dimension holds."""
    if values.shape[0] == 0:
        return values.new_zeros(values.shape[:-1], dtype=torch.int64)
    return (values.sort(dim=-1).values.diff(dim=-1) != 0).sum(-1) + 1


def _next_power_of_two(counts: Tensor) -> Tensor:
    return 2 ** counts.double().clamp(min=1).log2().ceil().long()
