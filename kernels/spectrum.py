"""Filters in the Fourier domain with real weights, different for every image."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.spectrum import Filter, perturb, perturb_adjoint_into, perturb_into
from cannonade.kernels.philox import draw
from cannonade.kernels.pointwise import clip


class _RealFilter(torch.autograd.Function):
    """Multiply the half spectrum of a real image by real, point-symmetric weights: a self-adjoint map."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        if not len(images):  # MKL refuses to plan for nothing
            return images.clone()
        out: Tensor = torch.fft.irfft2(torch.fft.rfft2(images).mul_(weights), s=images.shape[-2:])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return _RealFilter.apply(grads[0], weights), None


def band_edges(keep: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and one past the last of the frequencies that a keep fraction zeroes: ⌊size·f⌋ and ⌊size·(1−f)⌋.

    Args:
        keep: keep fractions f in [0, 1] of any shape, taken in float64.
        size: number of frequencies along the axis.

    Returns:
        Two int64 tensors of the same shape; the band is empty where f ≥ ½ and everything where ⌊size·f⌋ = 0.
    """
    wide = keep.double()
    return (wide * size).floor().long(), ((1 - wide) * size).floor().long()


def _reversed(x: Tensor, dim: int) -> Tensor:
    """The value at frequency −k in place of that at k."""
    return x.flip(dim).roll(1, dim)


def _kept(keep: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """1 for the frequencies along an axis that stay, 0 for those in the band: [N, 3, size]."""
    first, end = (edge[..., None] for edge in band_edges(keep, size))
    index = torch.arange(size, device=keep.device)
    return ((index < first) | (index >= end)).to(dtype)


def perturb_spectrum(images: Tensor, keep: Tensor, factor: Tensor) -> Tensor:
    """Zero a band of rows and columns of each channel's spectrum, scale every frequency, and take the real part.

    The frequencies are those of `fft2`, zero first, so the middle rows ⌊Hf⌋ … ⌊H(1−f)⌋ − 1, the highest frequencies,
    are zeroed, and likewise the columns. The real part depends on the mean of the weights of k and −k alone, so a half
    spectrum is enough. Exact gradient: the map is linear and its own transpose.

    Args:
        images: [N, 3, H, W] float32 or float64.
        keep: [N, 3] keep fractions f in [0, 1].
        factor: [N, H, W], one factor per frequency, shared by the channels.

    Returns:
        [N, 3, H, W] of the same dtype, not clipped.

    Source: BaRT (Raff et al., CVPR 2019), group 5, without the published random mask, which inverts itself away.
    """
    height, width = images.shape[-2:]
    half = width // 2 + 1
    factor = factor.to(images.dtype)[:, None]
    rows, columns = _kept(keep, height, images.dtype)[..., None], _kept(keep, width, images.dtype)[:, :, None]
    weights = factor[..., :half] * rows * columns[..., :half]
    opposite = _reversed(_reversed(factor, -1)[..., :half], -2)
    weights.addcmul_(opposite * _reversed(rows, -2), _reversed(columns, -1)[..., :half]).mul_(0.5)
    out: Tensor = _RealFilter.apply(images, weights)
    return out


def perturb_spectrum_drawn(
    images: Tensor, keep: Tensor, coordinates: Tensor, low: float, high: float, backend: Backend = "auto"
) -> Tensor:
    """`perturb_spectrum` with factors low + (high − low)·u of uniform numbers u, clipped to [0, 1].

    Element r·W + c of a stream gives the factor of frequency (r, c). No tensor of factors is kept: backward draws again.

    Args:
        images: [N, C, H, W].
        keep: [N, C] float32 keep fractions in [0, 1].
        coordinates: [N, 5] int64, of the streams (see `cannonade.kernels.philox.draw`).
        low, high: ends of the factors.
        backend: "auto", "triton", "native" or "torch"; their factors have the same bits, Fourier transforms round.

    Returns:
        [N, C, H, W].
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        perturbed: Tensor = perturb(images, keep, coordinates, low, high, chosen)[0]
        return perturbed
    unit = draw(coordinates, images.shape[-2:].numel(), "uniform")
    return clip(perturb_spectrum(images, keep, unit.mul_(high - low).add_(low).view(-1, *images.shape[-2:])))


def perturb_spectrum_step(keep: Tensor, coordinates: Tensor, low: float, high: float) -> Step:
    """`perturb_spectrum_drawn` by launchers; keep [M, C] and coordinates [M, 5], a row for each image of a launch."""
    own = Filter(keep, coordinates, low, high)

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        return (perturb_into(out, images, own),)

    def backward(to: Rows, grad: Rows, images: Rows, inside: Tensor) -> None:
        perturb_adjoint_into(to, grad, own, inside)

    return Step(forward, backward)
