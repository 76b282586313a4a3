"""BaRT group 10, the slow half: total variation, wavelet and non-local means denoising."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.backend import choose
from cannonade.kernels.device.rows import Step
from cannonade.kernels.nlm import nl_means
from cannonade.kernels.pointwise import clip
from cannonade.kernels.shrinkage import denoise_wavelet, denoise_wavelets, denoise_wavelets_step
from cannonade.kernels.tv import tv_chambolle
from cannonade.kernels.wavelet import LOW_PASS, estimate_sigma
from cannonade.transforms.base import Gradient, Params, Transform, straight_through
from cannonade.transforms.scaling import check_range

# How many values to work on at a time: on a CPU what fits its cache (one photo), elsewhere what bounds the memory.
_VALUES_CPU, _VALUES = 1 << 17, 1 << 24


def _native(images: Tensor) -> bool:
    """Whether native code does the work: it takes any number of images, shares them between threads and keeps little."""
    return choose("auto", images, native=images.dtype == torch.float32) == "native"


def _by_group(images: Tensor, keys: list[Tensor], function: Callable[..., Tensor]) -> Tensor:
    """`function(images[rows], rows, *key)` for the rows that share integer keys; in PyTorch a bounded number at a time."""
    table = torch.stack([key.long() for key in keys], dim=1)
    groups, member = torch.unique(table, dim=0, return_inverse=True)
    values = _VALUES_CPU if images.device.type == "cpu" else _VALUES
    at_once = len(images) if _native(images) else max(1, values // max(1, images[:1].numel()))
    jobs = [
        (rows, key)
        for number, key in enumerate(groups.tolist())
        for rows in (member == number).nonzero()[:, 0].split(at_once)
    ]
    order = torch.cat([rows for rows, _ in jobs])
    # Gathered once and split: a gather per job would cost a whole batch of zeros each in backward.
    pieces = images.index_select(0, order).split([len(rows) for rows, _ in jobs])
    parts = [function(piece, rows, *key) for piece, (rows, key) in zip(pieces, jobs, strict=True)]
    return torch.cat(parts).index_select(0, order.argsort())


@dataclass(frozen=True, kw_only=True)
class TvChambolle(Transform):
    """Total variation denoising, of each channel by itself or of the three together as a volume.

    Gradient: exact for the minimiser that the iteration approaches: an adjoint fixed point of as many steps as forward
    took, that number being a constant. It needs the memory of one iteration; its cosine with the gradient of the
    unrolled iteration is .997 on photos in the median, and .98 at least. A constant image has the identity.

    Source: Raff et al., CVPR 2019, group 10; Chambolle 2004, as in scikit-image.

    Attributes:
        weight: ends of the denoising weight, uniform; the larger, the smoother.
        tolerance: relative change of energy at which an image, or a channel by itself, stops.
        max_iterations: the most iterations of any image.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    weight: tuple[float, float] = (0.05, 0.25)
    tolerance: float = 2e-4
    max_iterations: int = 200

    def __post_init__(self) -> None:
        check_range("TvChambolle: weight", *self.weight, least=1e-6)
        if not 0 <= self.tolerance < 1:
            raise InputError(f"TvChambolle: tolerance must be in [0, 1), got {self.tolerance}")
        if self.max_iterations < 1:
            raise InputError(f"TvChambolle: max_iterations must be at least 1, got {self.max_iterations}")

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `weight` [N] float32 and `per_channel` [N] bool."""
        return {"weight": draws.site(0).uniform(*self.weight), "per_channel": draws.site(1).bernoulli(0.5)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Denoise each image."""
        if not len(images):
            return images.clone()
        return _inside(_by_group(images, [params["per_channel"]], lambda *group: self._group(params["weight"], *group)))

    def _group(self, weights: Tensor, images: Tensor, rows: Tensor, per_channel: int) -> Tensor:
        weight = weights[rows]
        if not per_channel:
            return tv_chambolle(images, weight, self.tolerance, self.max_iterations)
        planes = tv_chambolle(
            images.flatten(0, 1)[:, None], weight.repeat_interleave(3), self.tolerance, self.max_iterations
        )
        return planes.reshape(images.shape)


@dataclass(frozen=True, kw_only=True)
class WaveletDenoising(Transform):
    """Wavelet denoising with BayesShrink thresholds, in RGB or YCbCr, with or without cycle spinning.

    Computed in float64. A channel without any finest diagonal coefficient (a constant one) stays unchanged.

    Gradient: straight-through with the thresholds, and the range that YCbCr channels are stretched from, as constants.

    Source: Raff et al., CVPR 2019, group 10; Chang, Yu and Vetterli 2000, as in scikit-image.

    Attributes:
        wavelets: names to choose from, uniformly: haar, db1 (the same one), db2, sym9.
        max_shifts: ends of the largest circular shift of cycle spinning, uniform over the integers.
    """

    gradient: ClassVar[Gradient] = Gradient.STRAIGHT_THROUGH

    wavelets: tuple[str, ...] = ("db1", "db2", "haar", "sym9")
    max_shifts: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        unknown = [name for name in self.wavelets if name not in LOW_PASS]
        if unknown or not self.wavelets:
            raise InputError(
                f"WaveletDenoising: wavelets must be one or more of {', '.join(LOW_PASS)}, got {self.wavelets}"
            )
        check_range("WaveletDenoising: max_shifts", *self.max_shifts, least=0)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `ycbcr` [N] bool; `wavelet` [N] int64, an index into `wavelets`; `soft` [N] bool; `shifts` [N] int64."""
        return {
            "ycbcr": draws.site(0).bernoulli(0.5),
            "wavelet": draws.site(1).integers(0, len(self.wavelets) - 1),
            "soft": draws.site(2).bernoulli(0.5),
            "shifts": draws.site(3).integers(*self.max_shifts),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Denoise each image and clip."""
        if not len(images):
            return images.clone()
        if choose("auto", images, native=True, on_gpu=images.dtype == torch.float32) == "triton":
            return clip(denoise_wavelets(images, self.wavelets, *self._choices(params), self.max_shifts[1]))

        def group(images: Tensor, rows: Tensor, wavelet: int, shifts: int) -> Tensor:
            return denoise_wavelet(images, self.wavelets[wavelet], params["ycbcr"][rows], params["soft"][rows], shifts)

        return clip(_by_group(images, [params["wavelet"], params["shifts"]], group))

    def step(self, params: Params) -> Step:
        """The same by launchers."""
        return denoise_wavelets_step(self.wavelets, *self._choices(params), self.max_shifts[1])

    def _choices(self, params: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return params["wavelet"], params["ycbcr"], params["soft"], params["shifts"]


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(Transform):
    """Non-local means, of the three channels together or of each by itself, as strong as the noise found in the image.

    The filter's h is a random multiple of an estimate of the noise, which is averaged over the channels where they are
    taken together. Where there is no estimate (a constant channel) or it is below 1e-6, the image, or the channel by
    itself, stays unchanged.

    Gradient: exact, the estimate of the noise included, except at the distance beyond which a weight is cut to 0; with
    `constant_weights` the mean's weights are constants in backward, which costs about half.

    Source: Raff et al., CVPR 2019, group 10; Darbon et al. 2008, as in scikit-image's fast mode.

    Attributes:
        strength: ends of h in units of the estimated standard deviation, uniform.
        patch_size: ends of the patches' side in pixels, uniform over the integers; even ones count as one more.
        patch_distance: ends of the largest shift in pixels, uniform over the integers.
        constant_weights: whether backward takes the weights as constants.
    """

    gradient: ClassVar[Gradient] = Gradient.EXACT

    strength: tuple[float, float] = (0.6, 1.15)
    patch_size: tuple[int, int] = (5, 7)
    patch_distance: tuple[int, int] = (6, 11)
    constant_weights: bool = False

    def __post_init__(self) -> None:
        check_range("NonLocalMeans: strength", *self.strength, least=1e-3)
        check_range("NonLocalMeans: patch_size", *self.patch_size, least=2)
        check_range("NonLocalMeans: patch_distance", *self.patch_distance, least=1)

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `strength` [N] float32; `together` [N] bool; `patch_size` and `patch_distance` [N] int64."""
        return {
            "strength": draws.site(0).uniform(*self.strength),
            "together": draws.site(1).bernoulli(0.5),
            "patch_size": draws.site(2).integers(*self.patch_size),
            "patch_distance": draws.site(3).integers(*self.patch_distance),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Denoise each image."""
        if not len(images):
            return images.clone()
        needed = (self.patch_size[1] | 1) // 2 + self.patch_distance[1] + 1
        if min(images.shape[2:]) < needed:
            raise InputError(
                f"NonLocalMeans: images must be at least {needed} pixels high and wide for these patch sizes and "
                f"distances, got {images.shape[2]}×{images.shape[3]}"
            )
        keys = [params["together"]]
        if not _native(images):
            keys += [params["patch_size"] | 1, params["patch_distance"]]
        return _inside(_by_group(images, keys, lambda *group: self._group(params, *group)))

    def _group(self, params: Params, images: Tensor, rows: Tensor, together: int, *_: int) -> Tensor:
        source = images.detach() if self.constant_weights else images
        sigma = estimate_sigma(source.flatten(0, 1)).reshape(images.shape[:2])
        sigma = sigma.mean(1, keepdim=True) if together else sigma
        found = sigma >= 1e-6
        h = torch.where(found, sigma * params["strength"][rows, None], 1.0).flatten()
        blocks = images if together else images.flatten(0, 1)[:, None]
        patch, distance = (
            params[name][rows].repeat_interleave(1 if together else 3) for name in ("patch_size", "patch_distance")
        )
        out = nl_means(blocks, h, patch, distance, self.constant_weights).reshape(images.shape)
        return torch.where(found[:, :, None, None], out, images)


def _inside(result: Tensor) -> Tensor:
    """Clip what rounding alone put outside [0, 1], where the clip's zero gradient would be wrong."""
    return straight_through(result.detach().clamp(0, 1), result)
