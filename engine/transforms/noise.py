"""Noise: BaRT's group 4 (noise injection) and the Gaussian noise of randomised smoothing."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cannonade.draws import Draws, Stream
from cannonade.errors import InputError
from cannonade.kernels.backend import constants
from cannonade.kernels.device.noise import Settings
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.groups import by_group
from cannonade.kernels.noise import Noise, add_noise, noise_step
from cannonade.kernels.pointwise import clip
from cannonade.kernels.poisson import photon_step
from cannonade.transforms.base import Gradient, Params, Transform, straight_through

MODES = ("gaussian", "poisson", "salt", "pepper", "s&p", "speckle")
# What each does to a value (poisson has a law of its own), and which part of the values replaced becomes 1.
_KINDS = (int(Noise.ADDED), int(Noise.ADDED), *(int(Noise.REPLACED),) * 3, int(Noise.MULTIPLIED))
_SALTS = (0.0, 0.0, 1.0, 0.0, 0.5, 0.0)
_POISSON = MODES.index("poisson")


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
        return add_noise(images, *self._streams(params))

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return noise_step(*self._streams(params))

    def _streams(self, params: Params) -> tuple[Tensor, Tensor, Tensor, Settings]:
        stream = params["stream"]
        kind, salt = torch.full_like(stream[:, 0], Noise.ADDED), stream.new_zeros(len(stream), dtype=torch.float32)
        return stream, kind, salt, Settings(mean=self.mean, sigma=self.sigma, clip=self.clip)


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
        mode, (stream, kind, salt, settings) = params["mode"], self._streams(params)

        def noisy(is_poisson: int, rows: Tensor) -> Tensor:
            if is_poisson:
                return clip(
                    self._poisson(images.index_select(0, rows), Stream(stream[rows]), params["per_channel"][rows])
                )
            return add_noise(images.index_select(0, rows), stream[rows], kind[rows], salt[rows], settings)

        return by_group((mode == _POISSON).long(), noisy)

    def step(self, params: Params) -> Step:
        """The same by launchers: those of counts leave out the images of another mode, and the others those of counts."""
        streams, counted = self._streams(params), params["mode"] == _POISSON
        noise = noise_step(*streams)
        if "poisson" not in self.modes:
            return noise
        photons = photon_step(streams[0], lambda images: self._levels_of_rows(images, params["per_channel"]))

        def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
            noise.forward(out.only(~counted), images.only(~counted))
            return photons.forward(out.only(counted), images.only(counted))

        def backward(to: Rows, grad: Rows, images: Rows, *kept: Tensor) -> None:
            noise.backward(to.only(~counted), grad.only(~counted), images.only(~counted))
            photons.backward(to.only(counted), grad.only(counted), images.only(counted), *kept)

        return Step(forward, backward)

    def _streams(self, params: Params) -> tuple[Tensor, Tensor, Tensor, Settings]:
        mode = params["mode"]
        kind = constants(_KINDS, torch.int64, mode.device)[mode]
        salt = constants(_SALTS, torch.float32, mode.device)[mode] * self.amount
        return params["stream"], kind, salt, Settings(sigma=self.sigma, amount=self.amount)

    def _levels_of_rows(self, images: Rows, per_channel: Tensor) -> Tensor:
        """[M, 3]; those of an image that is left out do not matter."""
        if self.levels != "distinct":
            return torch.full((len(images), 3), float(self.levels), device=images.buffer.device)
        return self._levels(images.buffer[images.index], per_channel)[..., 0, 0]

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
