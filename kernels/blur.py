"""Gaussian blur, each plane with widths of its own."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.errors import InputError
from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.blur import blur, blur_adjoint_into, blur_into
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.sheets import between_extremes, by_key

Border = Literal["replicate", "reflect"]


def gaussian_blur(
    images: Tensor,
    sigma: Tensor,
    half_width: Tensor | None = None,
    border: Border = "replicate",
    backend: Backend = "auto",
) -> Tensor:
    """Convolve with a sampled Gaussian, normalised to sum 1, along columns and then along rows.

    It adds shifted planes instead of calling a convolution, which may run in TF32. Every result is kept between the
    least and greatest value of its plane, where rounding alone would let it leave them; backward is the exact adjoint.

    Args:
        images: [N, C, H, W].
        sigma: [N, C, 2] standard deviations in pixels, vertical and horizontal, above 0.
        half_width: [N, C, 2] integers, the farthest pixel that counts; ⌊4σ + ½⌋ by default.
        border: what lies outside: the edge pixel, or the image mirrored without repeating its edge pixel.
        backend: "auto", "triton", "native" or "torch"; they differ by rounding.

    Returns:
        [N, C, H, W].

    Raises:
        InputError: a mirrored border is wider than the image.
    """
    if half_width is None:
        half_width = _reach(sigma)
    if border == "reflect":
        most = int(half_width.max()) if half_width.numel() else 0
        if most >= min(images.shape[-2:]):
            raise InputError(f"a mirrored border of {most} pixels needs an image of more, got {list(images.shape)}")
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        blurred: Tensor = blur(images, sigma.double(), half_width, border == "reflect", chosen)
        return blurred
    sigmas, halves = sigma.flatten(0, 1), half_width.flatten(0, 1)
    planes = images.flatten(0, 1)
    for axis in range(2):
        planes = _GaussianBlur.apply(planes, sigmas[:, axis], halves[:, axis], axis + 1, border)
    return planes.view(images.shape)


def blur_step(sigma: Tensor, half_width: Tensor | None = None, border: Border = "replicate") -> Step:
    """`gaussian_blur` by launchers; sigma and half_width [M, C, 2], a row for each image of a launch.

    That a mirrored border is narrower than the images must be known: to look here would wait for the device.
    """
    halves, mirror = _reach(sigma) if half_width is None else half_width, border == "reflect"

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        blur_into(out, images, sigma, halves, mirror)
        return ()

    def backward(to: Rows, grad: Rows, images: Rows) -> None:
        blur_adjoint_into(to, grad, sigma, halves, mirror)

    return Step(forward, backward)


def _reach(sigma: Tensor) -> Tensor:
    return (4 * sigma.double() + 0.5).floor().long()


class _GaussianBlur(torch.autograd.Function):
    """Correlation along one dimension; planes [P, H, W], sigma and half_width [P]."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, sigma: Tensor, half_width: Tensor, dim: int, border: Border) -> Tensor:
        ctx.save_for_backward(sigma, half_width)
        ctx.dim, ctx.border = dim, border

        def along(half: int, part: Tensor, rows: Tensor) -> Tensor:
            padded = F.pad(part, _along(dim, half), mode=border) if half else part
            return _correlate(padded, _gaussian_weights(sigma[rows], half, part.dtype), dim)

        return between_extremes(by_key(half_width, planes, along), planes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sigma, half_width = ctx.saved_tensors

        def adjoint(half: int, part: Tensor, rows: Tensor) -> Tensor:
            weights = _gaussian_weights(sigma[rows], half, part.dtype)
            spread = _correlate(F.pad(part, _along(ctx.dim, 2 * half)), weights, ctx.dim)
            return _folded(spread, half, ctx.dim, ctx.border)

        return by_key(half_width, grads[0], adjoint), None, None, None, None


def _along(dim: int, width: int) -> tuple[int, int, int, int]:
    """`F.pad`'s argument for both ends of dimension 1 or 2 of [P, H, W]."""
    return (0, 0, width, width) if dim == 1 else (width, width, 0, 0)


def _gaussian_weights(sigma: Tensor, half: int, dtype: torch.dtype) -> Tensor:
    """[G, 2·half + 1], each row summing to 1."""
    distance = torch.arange(-half, half + 1, device=sigma.device, dtype=torch.float64)
    weights = (-0.5 * (distance / sigma.double()[:, None]).square()).exp()
    return (weights / weights.sum(dim=1, keepdim=True)).to(dtype)


def _correlate(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Correlate [G, A, B] with symmetric weights [G, 2h + 1] along a dimension, which gets shorter by 2h."""
    count, rows, columns = padded.shape
    half = weights.shape[1] // 2
    step = columns if dim == 1 else 1
    flat = padded.contiguous().view(count, rows * columns)
    length = rows * columns - 2 * half * step
    row = torch.empty_like(flat)
    out, pair = row[:, :length], torch.empty_like(flat[:, :length])
    torch.mul(flat[:, half * step : half * step + length], weights[:, half : half + 1], out=out)
    for tap in range(half):
        far = (2 * half - tap) * step
        torch.add(flat[:, tap * step : tap * step + length], flat[:, far : far + length], out=pair)
        out.addcmul_(pair, weights[:, tap : tap + 1])
    return row.view(count, rows, columns).narrow(dim, 0, padded.shape[dim] - 2 * half)


def _folded(spread: Tensor, half: int, dim: int, border: Border) -> Tensor:
    """The adjoint of padding by `half`: what lies outside is added to the pixels it was copied from."""
    size = spread.shape[dim] - 2 * half
    core = spread.narrow(dim, half, size)
    head, tail = spread.narrow(dim, 0, half), spread.narrow(dim, half + size, half)
    if border == "replicate":
        core.narrow(dim, 0, 1).add_(head.sum(dim, keepdim=True))
        core.narrow(dim, size - 1, 1).add_(tail.sum(dim, keepdim=True))
    else:
        core.narrow(dim, 1, half).add_(head.flip(dim))
        core.narrow(dim, size - 1 - half, half).add_(tail.flip(dim))
    return core
