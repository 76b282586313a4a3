"""Wavelet denoising: BayesShrink thresholds, cycle spinning, RGB or YCbCr, in float64."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.shrinkage import (
    YCBCR,
    YCBCR_OFFSET,
    Choices,
    denoise_adjoint_into,
    denoise_into,
    denoised,
    wavelet_shrink,
)
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
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, 3, H, W] of the same dtype, not clipped.
    """
    if choose(backend, images, native=True, on_gpu=images.dtype in NARROW) == "triton":
        first = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return denoise_wavelets(images, (wavelet,), first, ycbcr, soft, first + shifts, shifts)
    colour = ycbcr[:, None, None]
    eye = torch.eye(3, dtype=torch.float64, device=images.device)
    forth = torch.tensor(YCBCR, dtype=torch.float64)
    back = torch.where(colour, torch.linalg.inv(forth).to(images.device), eye)
    forth = torch.where(colour, forth.to(images.device), eye)
    offset = torch.where(colour, eye.new_tensor(YCBCR_OFFSET)[:, None], 0.0)
    channels = forth @ images.double().flatten(2) + offset
    least, most = channels.detach().aminmax(dim=2, keepdim=True)
    scale = torch.where(colour & (most > least), most - least, 1.0)
    least = torch.where(colour, least, 0.0)
    planes = ((channels - least) / scale).reshape(-1, *images.shape[2:])
    denoised = bayes_shrink(planes, wavelet, soft.repeat_interleave(images.shape[1]), shifts, backend)
    restored = denoised.reshape(channels.shape) * scale + least
    return (back @ (restored - offset)).to(images.dtype).reshape(images.shape)


def denoise_wavelets(
    images: Tensor,
    wavelets: tuple[str, ...],
    wavelet: Tensor,
    ycbcr: Tensor,
    soft: Tensor,
    shifts: Tensor,
    most_shifts: int,
) -> Tensor:
    """`denoise_wavelet` on Triton, by one sequence of launches whatever each image's settings are.

    Args:
        images: [N, 3, H, W] in [0, 1].
        wavelets: names in LOW_PASS.
        wavelet: [N] int64, into `wavelets`.
        ycbcr: [N] bool.
        soft: [N] bool.
        shifts: [N] int64, from 0 to `most_shifts`.
        most_shifts: the largest circular shift of any image.

    Returns:
        [N, 3, H, W] of the same dtype, not clipped.
    """
    filters = [LOW_PASS[name] for name in wavelets]
    taps = [len(low) for low in filters]
    depths = [levels(images.shape[2], images.shape[3], count) for count in taps]
    flat = [value for low in filters for value in low]
    result: Tensor = denoised(images, wavelet, soft, ycbcr, shifts, flat, taps, depths, most_shifts)[0]
    return result


def denoise_wavelets_step(
    wavelets: tuple[str, ...], wavelet: Tensor, ycbcr: Tensor, soft: Tensor, shifts: Tensor, most_shifts: int
) -> Step:
    """`denoise_wavelets` by launchers, clipped to [0, 1]; tensors have a row for each image of a launch."""
    filters = tuple(LOW_PASS[name] for name in wavelets)

    def choices(images: Rows) -> Choices:
        height, width = images.buffer.shape[2:]
        depths = tuple(levels(height, width, len(low)) for low in filters)
        return Choices(wavelet, soft, ycbcr, shifts, filters, depths, most_shifts)

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        shape = (len(images), *images.buffer.shape[1:])
        inside = torch.empty(shape, dtype=torch.uint8, device=images.buffer.device)
        return *denoise_into(out, images, choices(images), inside), inside

    def backward(to: Rows, grad: Rows, images: Rows, masks: Tensor, ranges: Tensor, inside: Tensor) -> None:
        denoise_adjoint_into(to, grad, choices(images), masks, ranges, inside)

    return Step(forward, backward)


def bayes_shrink(planes: Tensor, wavelet: str, soft: Tensor, shifts: int = 0, backend: Backend = "auto") -> Tensor:
    """Wavelet denoising with a threshold σ²/√(mean(d²) − σ²) for every sub-band d, σ estimated from the plane itself.

    The transform extends a plane by reflection (edge pixels repeated) and has `levels(H, W, taps)` levels; √'s argument
    is at least 2⁻⁵². A plane whose finest diagonal coefficients are all 0 stays unchanged. Backward takes the
    thresholds as constants: it is the adjoint of the transform, of the mask of kept coefficients and of the inverse.

    Source: Chang, Yu and Vetterli, "Adaptive wavelet thresholding for image denoising and compression", IEEE TIP 9
    (2000); scikit-image's `denoise_wavelet` and `cycle_spin`.

    Args:
        planes: [M, H, W], computed in float64.
        wavelet: a name in LOW_PASS.
        soft: [M] bool: shrink what is kept by the threshold, or keep it as it is.
        shifts: mean over the (shifts + 1)² circular shifts by 0 … shifts pixels along both axes.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [M, H, W] float64.
    """
    low = LOW_PASS[wavelet]
    chosen = choose(backend, planes, native=True, on_gpu=True)
    if chosen != "torch":
        depth = levels(planes.shape[1], planes.shape[2], len(low))
        shrunk: Tensor = wavelet_shrink(planes.double(), soft, list(low), depth, shifts, chosen)[0]
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
