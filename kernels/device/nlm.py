"""Non-local means by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::nlm_mean", mutates_args=())
def nlm_mean(images: Tensor, offset: Tensor, distance: Tensor, constant_weights: bool) -> tuple[Tensor, Tensor]:
    """Weighted means and the sums of the weights.

    Args:
        images: [M, C, H, W] float32, scaled such that the distance of two patches is a plain sum of squares.
        offset: [M] int64, half the side of the patches.
        distance: [M] int64, largest shift along an axis.
        constant_weights: whether backward takes the weights as constants.
    """
    images = images.contiguous()
    out, mass = torch.empty_like(images), torch.empty_like(images[:, 0])
    native.run("nlm_mean", out, mass, images, offset.contiguous(), distance.contiguous(), *images.shape)
    return out, mass


@torch.library.custom_op("cannonade::nlm_mean_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor, out: Tensor, mass: Tensor, images: Tensor, offset: Tensor, distance: Tensor, constant_weights: bool
) -> Tensor:
    images = images.contiguous()
    to = torch.empty_like(images)
    native.run(
        "nlm_mean_adjoint", to, grad.contiguous(), out, mass, images, offset.contiguous(), distance.contiguous(),
        int(constant_weights), *images.shape,
    )  # fmt: skip
    return to


@nlm_mean.register_fake
def _(images: Tensor, offset: Tensor, distance: Tensor, constant_weights: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out[:, 0])


@_adjoint.register_fake
def _(
    grad: Tensor, out: Tensor, mass: Tensor, images: Tensor, offset: Tensor, distance: Tensor, constant_weights: bool
) -> Tensor:
    return torch.empty_like(images, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *inputs[:3])
    ctx.constant_weights = inputs[3]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    return _adjoint(grad, *ctx.saved_tensors, ctx.constant_weights), None, None, None


nlm_mean.register_autograd(_backward, setup_context=_keep)
