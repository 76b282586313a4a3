"""Total-variation denoising by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::tv_solve", mutates_args=())
def tv_solve(volumes: Tensor, weight: Tensor, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """The result, its dual and the number of steps: volumes [M, C, H, W] and weight [M], float32."""
    volumes, weight = volumes.contiguous(), weight.contiguous()
    u, dual, steps = _outputs(volumes)
    native.run("tv_solve", u, dual, steps, volumes, weight, tolerance, max_iterations, *volumes.shape)
    return u, dual, steps


@torch.library.custom_op("cannonade::tv_solve_adjoint", mutates_args=())
def _adjoint(grad: Tensor, u: Tensor, dual: Tensor, steps: Tensor, weight: Tensor) -> Tensor:
    out = torch.empty_like(u)
    native.run("tv_solve_adjoint", out, grad.contiguous(), u, dual, steps, weight.contiguous(), *u.shape)
    return out


def _outputs(volumes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = volumes.shape
    return (
        torch.empty_like(volumes, memory_format=torch.contiguous_format),
        volumes.new_empty(count, 2 if channels == 1 else 3, channels, height, width),
        torch.empty(count, dtype=torch.int64, device=volumes.device),
    )


@tv_solve.register_fake
def _(volumes: Tensor, weight: Tensor, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(volumes)


@_adjoint.register_fake
def _(grad: Tensor, u: Tensor, dual: Tensor, steps: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(u)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, inputs[1])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
    return _adjoint(grad, *ctx.saved_tensors), None, None, None


tv_solve.register_autograd(_backward, setup_context=_keep)
