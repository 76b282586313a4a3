"""Wavelet denoising: BayesShrink thresholds, cycle spinning, RGB or YCbCr, in float64."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import Backend, choose
from cannonade.kernels.device.wavelet import wavelet_shrink
from cannonade.kernels.wavelet import (
    LOW_PASS,
    Pyramid,
    decompose,
    decompose_adjoint,
    levels,
    middle_magnitudes,
    reconstruct,
    reconstruct_adjoint,
    sigma_of,
)

_EPSILON = 2.0**-52
# BT.601 with luma in 16 … 235 and chroma in 16 … 240, for RGB in [0, 1].
_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


def denoise_wavelet(
    images: Tensor, wavelet: str, ycbcr: Tensor, soft: Tensor, shifts: int = 0, backend: Backend = "auto"
) -> Tensor:
    """`bayes_shrink` of every channel, for some images in YCbCr with each channel stretched to [0, 1] meanwhile.

    Source: scikit-image's `denoise_wavelet` in `cycle_spin`.

    Args:
        images: [N, 3, H, W] in [0, 1].
        wavelet: a name in LOW_PASS.
        ycbcr: [N] bool.
        soft: [N] bool, soft thresholds or hard ones.
        shifts: 0, or the largest circular shift to average over.
        backend: "auto", "native" or "torch".

    Returns:
        [N, 3, H, W] of the same dtype, not clipped.
    """
    colour = ycbcr[:, None, None]
    eye = torch.eye(3, dtype=torch.float64, device=images.device)
    forth = torch.tensor(_YCBCR, dtype=torch.float64)
    back = torch.where(colour, torch.linalg.inv(forth).to(images.device), eye)
    forth = torch.where(colour, forth.to(images.device), eye)
    offset = torch.where(colour, eye.new_tensor(_YCBCR_OFFSET)[:, None], 0.0)
    channels = forth @ images.double().flatten(2) + offset
    least, most = channels.detach().aminmax(dim=2, keepdim=True)
    scale = torch.where(colour & (most > least), most - least, 1.0)
    least = torch.where(colour, least, 0.0)
    planes = ((channels - least) / scale).reshape(-1, *images.shape[2:])
    denoised = bayes_shrink(planes, wavelet, soft.repeat_interleave(images.shape[1]), shifts, backend)
    restored = denoised.reshape(channels.shape) * scale + least
    return (back @ (restored - offset)).to(images.dtype).reshape(images.shape)


def bayes_shrink(planes: Tensor, wavelet: str, soft: Tensor, shifts: int = 0, backend: Backend = "auto") -> Tensor:
    """Wavelet denoising with a threshold σ²/√(mean(d²) − σ²) for every sub-band d, σ estimated from the plane itself.

    The transform extends a plane by reflection (edge pixels repeated) and has `levels(H, W, taps)` levels; √'s argument
    is at least 2⁻⁵². A plane whose finest diagonal coefficients are all 0 stays unchanged. Backward takes the
    thresholds as
    constants: it is the adjoint of the transform, of the mask of kept coefficients and of the inverse.

    Source: Chang, Yu and Vetterli, "Adaptive wavelet thresholding for image denoising and compression", IEEE TIP 9
    (2000); scikit-image's `denoise_wavelet` and `cycle_spin`.

    Args:
        planes: [M, H, W], computed in float64.
        wavelet: a name in LOW_PASS.
        soft: [M] bool: shrink what is kept by the threshold, or keep it as it is.
        shifts: mean over the (shifts + 1)² circular shifts by 0 … shifts pixels along both axes.
        backend: "auto", "native" or "torch".

    Returns:
        [M, H, W] float64.
    """
    low = LOW_PASS[wavelet]
    if choose(backend, planes, native=True) == "native":
        depth = levels(planes.shape[1], planes.shape[2], len(low))
        shrunk: Tensor = wavelet_shrink(planes.double(), soft, list(low), depth, shifts)[0]
        return shrunk
    result: Tensor = _BayesShrink.apply(planes.double(), low, soft, shifts)
    return result


class _BayesShrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, planes: Tensor, low: tuple[float, ...], soft: Tensor, shifts: int) -> Tensor:
        masks: list[Tensor] = []
        mean = torch.zeros_like(planes, memory_format=torch.contiguous_format)
        steps = [(row, column) for row in range(shifts + 1) for column in range(shifts + 1)]
        for row, column in steps:
            pyramid = decompose(torch.roll(planes, (row, column), (1, 2)), low)
            masks += _threshold(pyramid, soft)
            mean += torch.roll(reconstruct(pyramid, low), (-row, -column), (1, 2))
        ctx.save_for_backward(*masks)
        ctx.low, ctx.steps = low, steps
        return mean.div_(len(steps))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        low, steps, masks = ctx.low, ctx.steps, list(ctx.saved_tensors)
        mean = torch.zeros_like(grads[0], memory_format=torch.contiguous_format)
        depth = len(masks) // len(steps)
        for number, (row, column) in enumerate(steps):
            pyramid = reconstruct_adjoint(torch.roll(grads[0], (row, column), (1, 2)), low, depth)
            for level, mask in zip(pyramid.levels, masks[number * depth :], strict=False):
                level.mul_(mask)
            mean += torch.roll(decompose_adjoint(pyramid, low), (-row, -column), (1, 2))
        return mean.div_(len(steps)), None, None, None


def _threshold(pyramid: Pyramid, soft: Tensor) -> list[Tensor]:
    """Threshold every sub-band in place; returns which coefficients were kept, level by level."""
    sigma = sigma_of(middle_magnitudes(pyramid.levels[0][2])[0], pyramid.levels[0][2])
    variance = sigma.square()
    masks = []
    for bands in pyramid.levels:
        spread = bands.square().mean((2, 3)) - variance
        threshold = (variance / spread.clamp(min=_EPSILON).sqrt()).nan_to_num(0.0)[:, :, None, None]
        mask = bands.abs() >= threshold
        reach = threshold * soft[:, None, None]
        bands.sub_(bands.clamp(-reach, reach)).mul_(mask)
        masks.append(mask)
    return masks
