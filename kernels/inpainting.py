"""Images from some of their pixels: the smallest total variation that agrees with the pixels kept."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Primal step; the dual one is 1/(8·_STEP), as 8 bounds the squared norm of the differences. Measured on photos: after
# 100 steps 2 to 4 times closer than with .15 or 2.
_STEP = 0.5


def inpaint_total_variation(
    images: Tensor, kept: Tensor, weight: float, iterations: int, isotropic: bool = True
) -> Tensor:
    """Minimise Σ over kept pixels of (z − x)² + weight · TV(z) over z, by a fixed number of primal-dual steps.

    TV(z) is the sum over pixels and channels of √(dx² + dy²) (isotropic, TV₂) or |dx| + |dy|, with forward differences
    that are zero past the last row and column. Pixels that are not kept have no influence: the iteration starts from
    means over the kept pixels of a 5×5 window. No gradient is recorded.

    Args:
        images: [N, 3, H, W] in [0, 1], float32 or float64.
        kept: [N, H, W] bool.
        weight: of the total variation, > 0.
        iterations: number of steps; the error falls about as 1/iterations.
        isotropic: which total variation.

    Returns:
        [N, 3, H, W] of the same dtype, in [0, 1].

    Source: Chambolle and Pock, "A first-order primal-dual algorithm for convex problems", JMIV 2011, algorithm 1.
    """
    with torch.no_grad():
        known = kept[:, None].to(images.dtype)
        pull, scale = 2 * _STEP * known * images, 1 / (1 + 2 * _STEP * known)
        z = _window_means(images * known, known)
        # The dual field is held times the primal step, which makes its own step 1/8.
        across, down, ahead, spare = torch.zeros_like(z), torch.zeros_like(z), z.clone(), torch.empty_like(z)
        for _ in range(iterations):
            across[..., :-1].add_(ahead[..., 1:], alpha=1 / 8).sub_(ahead[..., :-1], alpha=1 / 8)
            down[..., :-1, :].add_(ahead[..., 1:, :], alpha=1 / 8).sub_(ahead[..., :-1, :], alpha=1 / 8)
            _project(across, down, _STEP * weight, isotropic, spare)
            torch.add(z, across, out=ahead).add_(down)
            ahead[..., 1:].sub_(across[..., :-1])
            ahead[..., 1:, :].sub_(down[..., :-1, :])
            ahead.add_(pull).mul_(scale)
            z, ahead = ahead, torch.sub(z, ahead, out=z).neg_().add_(ahead)
        return z.clamp_(0, 1)


def _window_means(values: Tensor, known: Tensor) -> Tensor:
    """Where known the value, elsewhere the mean of the known values in 5×5, or of the image, or ½."""
    total, share = F.avg_pool2d(values, 5, 1, 2), F.avg_pool2d(known, 5, 1, 2)
    everywhere = known.sum((-1, -2), keepdim=True)
    mean = torch.where(everywhere > 0, values.sum((-1, -2), keepdim=True) / everywhere.clamp(min=1), 0.5)
    local = torch.where(share > 0, total / share.clamp(min=0.01), mean)
    return torch.where(known > 0, values, local)


def _project(across: Tensor, down: Tensor, radius: float, isotropic: bool, spare: Tensor) -> None:
    """Bring the dual field back into the ball (or square) of the given radius, in place."""
    if isotropic:
        torch.mul(across, across, out=spare).addcmul_(down, down).sqrt_().clamp_(min=radius).reciprocal_().mul_(radius)
        across.mul_(spare)
        down.mul_(spare)
    else:
        across.clamp_(-radius, radius)
        down.clamp_(-radius, radius)
