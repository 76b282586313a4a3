"""Total-variation denoising by Chambolle's dual projection, with an implicit backward of constant memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.tv import tv_adjoint_into, tv_into, tv_solve


def tv_chambolle(
    volumes: Tensor,
    weight: Tensor,
    tolerance: float = 2e-4,
    max_iterations: int = 200,
    backend: Backend = "auto",
    per_channel: Tensor | None = None,
) -> Tensor:
    """argmin_u Σ|∇u| + |u − x|²/(2·weight), by a fixed-point iteration on the dual that stops early.

    From p = 0 the iteration is u = x + ∇ᵀp, p ← (p − τ∇u) / (1 + (τ/weight)·|∇u|), with forward differences ∇ along
    every axis and τ = 1/(2·axes). A volume stops, by itself, when its energy E = |u − x|² + weight·Σ|∇u| changed by
    less than tolerance times the first one, and its result is the u of that step; a constant volume is returned at
    once.

    Backward solves the adjoint fixed point λ = (∂F/∂p)ᵀλ + ∇v of the last dual for as many steps as forward took, with
    the number of steps a constant. It keeps one dual instead of one per step, and is the derivative of the minimiser in
    the limit. |∇u| has the subgradient 0 at 0.

    Source: Chambolle, "An algorithm for total variation minimization and applications", J. Math. Imaging Vis. 20
    (2004), section 3; energy and stopping as in scikit-image's `denoise_tv_chambolle`.

    Args:
        volumes: [M, C, H, W]. With C = 1 these are planes with two axes; else differences across the channels make a
            third.
        weight: [M] positive: the larger, the smoother.
        tolerance: relative change of energy at which to stop; 0 for all iterations.
        max_iterations: at least 1.
        backend: "auto", "triton", "native" or "torch". They differ by rounding, which may move the step at which a volume
            stops.
        per_channel: [M] bool, whose channels are each a plane by itself, with the same weight; by default none.

    Returns:
        [M, C, H, W] within the range of its volume up to rounding.
    """
    chosen = choose(backend, volumes, native=volumes.dtype == torch.float32, on_gpu=volumes.dtype in NARROW)
    if chosen != "torch":
        apart = torch.zeros_like(weight, dtype=torch.bool) if per_channel is None else per_channel
        u: Tensor = tv_solve(volumes.float(), weight.float(), apart, tolerance, max_iterations, chosen)[0]
        return u.to(volumes.dtype)
    if per_channel is None:
        result: Tensor = _Chambolle.apply(volumes, weight, tolerance, max_iterations)
        return result
    alone, together = (flag.nonzero()[:, 0] for flag in (per_channel, ~per_channel))
    planes = volumes[alone].flatten(0, 1)[:, None], weight[alone].repeat_interleave(volumes.shape[1])
    parts = [
        _Chambolle.apply(*part, tolerance, max_iterations).view(-1, *volumes.shape[1:])
        for part in (planes, (volumes[together], weight[together]))
    ]
    return torch.cat(parts)[torch.cat((alone, together)).argsort()]


def tv_chambolle_step(weight: Tensor, per_channel: Tensor, tolerance: float, max_iterations: int) -> Step:
    """`tv_chambolle` by launchers, clipped to [0, 1]; weight [M] and per_channel [M], a row for each image of a launch."""
    weight = weight.float().contiguous()

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        return tv_into(out, images, weight, per_channel, tolerance, max_iterations)

    def backward(to: Rows, grad: Rows, images: Rows, u: Tensor, dual: Tensor, steps: Tensor) -> None:
        tv_adjoint_into(to, grad, u, dual, steps, weight, per_channel)

    return Step(forward, backward)


def tv_chambolle_unrolled(volumes: Tensor, weight: Tensor, steps: int) -> Tensor:
    """The u after a number of steps, by operations that autograd differentiates one by one: what backward stands for.

    Args:
        volumes: [M, C, H, W].
        weight: [M] positive.
        steps: how often p is updated.
    """
    axes = _axes(volumes)
    tau, ratio = _step(axes, weight.to(volumes.dtype))
    dual = [torch.zeros_like(volumes) for _ in axes]
    u = volumes
    for _ in range(steps):
        gradient = [_difference(u, axis) for axis in axes]
        square = torch.stack(gradient).square().sum(0)
        norm = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
        dual = [(p - tau * g) / (1 + ratio * norm) for p, g in zip(dual, gradient, strict=True)]
        u = volumes + _adjoint(dual, axes)
    return u


class _Chambolle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volumes: Tensor, weight: Tensor, tolerance: float, max_iterations: int) -> Tensor:
        weight = weight.to(volumes.dtype)
        u, dual, steps = _solve(volumes, weight, tolerance, max_iterations)
        ctx.save_for_backward(u, weight, steps, *dual)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        u, weight, steps, *dual = ctx.saved_tensors
        return _solve_adjoint(grads[0], u, weight, steps, dual), None, None, None


def _axes(volumes: Tensor) -> tuple[int, ...]:
    return (-2, -1) if volumes.shape[1] == 1 else (-2, -1, -3)


def _step(axes: tuple[int, ...], weight: Tensor) -> tuple[float, Tensor]:
    """τ and τ/weight, the latter [M, 1, 1, 1]."""
    tau = 1 / (2 * len(axes))
    return tau, (tau / weight)[:, None, None, None]


def _difference(u: Tensor, axis: int) -> Tensor:
    """∇u along an axis: forward differences, 0 at the end."""
    out = torch.zeros_like(u)
    ahead, here = u.narrow(axis, 1, u.shape[axis] - 1), u.narrow(axis, 0, u.shape[axis] - 1)
    out.narrow(axis, 0, u.shape[axis] - 1).copy_(ahead - here)
    return out


def _difference_into(out: Tensor, u: Tensor, axis: int) -> None:
    """The same into a buffer whose end is already 0."""
    short = u.shape[axis] - 1
    torch.sub(u.narrow(axis, 1, short), u.narrow(axis, 0, short), out=out.narrow(axis, 0, short))


def _adjoint(dual: list[Tensor], axes: tuple[int, ...]) -> Tensor:
    """∇ᵀp, for p that is 0 at the end of its own axis."""
    out = -(dual[0] + dual[1])
    for p in dual[2:]:
        out = out.sub_(p)
    for p, axis in zip(dual, axes, strict=True):
        out.narrow(axis, 1, p.shape[axis] - 1).add_(p.narrow(axis, 0, p.shape[axis] - 1))
    return out


def _norm(gradient: list[Tensor]) -> Tensor:
    square = gradient[0] * gradient[0]
    for g in gradient[1:]:
        square.addcmul_(g, g)
    return square.sqrt_()


def _sum(values: Tensor) -> Tensor:
    """[M] float64 sums of [M, C, H, W]: rows in their own precision, so that the stopping step hardly depends on it."""
    return values.sum(-1).double().flatten(1).sum(1)


def _solve(
    volumes: Tensor, weight: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The result, its dual and the number of updates of p, for every volume."""
    axes = _axes(volumes)
    result, steps = volumes.clone(), torch.zeros(len(volumes), dtype=torch.int64, device=volumes.device)
    kept = [torch.zeros_like(result) for _ in axes]
    # The volumes still running, and their state; those that stop are dropped from it.
    rows = torch.arange(len(volumes), device=volumes.device)
    x, dual, gradient = result, [p.clone() for p in kept], [torch.zeros_like(result) for _ in axes]
    tau, ratio = _step(axes, weight)
    first = previous = torch.zeros_like(rows, dtype=torch.float64)
    for step in range(max_iterations):
        moved = _adjoint(dual, axes) if step else torch.zeros_like(x)
        u = x + moved
        for g, axis in zip(gradient, axes, strict=True):
            _difference_into(g, u, axis)
        norm = _norm(gradient)
        energy = _sum(moved.square_()) + weight[rows].double() * _sum(norm)
        if step == 0:
            first, stop = energy, energy == 0
        else:
            stop = (previous - energy).abs() < tolerance * first
        if step == max_iterations - 1:
            stop = torch.ones_like(stop)
        if bool(stop.any()):
            _store(result, u, rows, stop)
            for target, p in zip(kept, dual, strict=True):
                _store(target, p, rows, stop)
            steps[rows[stop]] = step
            going = ~stop
            rows, x, ratio, norm, first, energy = (t[going] for t in (rows, x, ratio, norm, first, energy))
            dual, gradient = [p[going] for p in dual], [g[going] for g in gradient]
            if not len(rows):
                break
        previous = energy
        norm.mul_(ratio).add_(1)
        for p, g in zip(dual, gradient, strict=True):
            p.sub_(g, alpha=tau).div_(norm)
    return result, kept, steps


def _store(target: Tensor, source: Tensor, rows: Tensor, where: Tensor) -> None:
    target[rows[where]] = source[where]


def _solve_adjoint(grad: Tensor, u: Tensor, weight: Tensor, steps: Tensor, dual: list[Tensor]) -> Tensor:
    """v + (∂F/∂x)ᵀ Σ_{k<steps} ((∂F/∂p)ᵀ)ᵏ ∇v for every volume, volumes of most steps first and dropped as they end.

    With s = 1 + (τ/weight)|∇u|, a cotangent λ of the next dual is μ = λ/s at p and m = −τ(μ − f(f·μ)) at ∇u, so ∇ᵀm at
    u, from where it goes to x, and by ∇ to p.
    """
    order = steps.argsort(descending=True, stable=True)
    left = steps[order].tolist()
    axes = _axes(u)
    tau = 1 / (2 * len(axes))
    shrink, fixed = _linearise(u[order], weight[order], [p[order] for p in dual])
    v = grad[order]
    cotangent, inward = [_difference(v, axis) for axis in axes], [torch.empty_like(v) for _ in axes]
    result = v.clone()
    count = len(left)
    for step in range(1, max(left, default=0) + 1):
        while left[count - 1] < step:
            count -= 1
        mu, f, m = ([t[:count] for t in ts] for ts in (cotangent, fixed, inward))
        for c in mu:
            c.mul_(shrink[:count])
        inner = mu[0] * f[0]
        for c, e in zip(mu[1:], f[1:], strict=True):
            inner.addcmul_(c, e)
        inner.mul_(tau)
        for c, e, out in zip(mu, f, m, strict=True):
            torch.mul(inner, e, out=out).sub_(c, alpha=tau)
        z = torch.add(_adjoint(m, axes), v[:count], out=result[:count])
        for c, axis in zip(mu, axes, strict=True):
            short = z.shape[axis] - 1
            c.narrow(axis, 0, short).add_(z.narrow(axis, 1, short)).sub_(z.narrow(axis, 0, short))
    return result[order.argsort()]


def _linearise(u: Tensor, weight: Tensor, dual: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """1/s and the direction f in which ∇u cannot change p.

    At the fixed point p = −weight·∇u/|∇u| where ∇u is not 0, and f is the unit vector along ∇u. Before it, the plain
    derivative −(τ/s)(μ + (μ·p')∇u/(weight·|∇u|)) with the next dual p' makes an adjoint iteration that can grow; f
    keeps it from growing by the symmetric part alone: |f|² = −p'·∇u/(weight·|∇u|), clipped to [0, 1].
    """
    axes = _axes(u)
    tau, ratio = _step(axes, weight)
    gradient = [_difference(u, axis) for axis in axes]
    norm = _norm(gradient)
    shrink = 1 / (1 + ratio * norm)
    against = norm * norm * tau
    for p, g in zip(dual, gradient, strict=True):
        against.addcmul_(p, g, value=-1)
    safe = torch.where(norm > 0, norm, 1)
    share = (against * shrink / (safe * weight[:, None, None, None])).clamp_(0, 1)
    scale = share.sqrt_().div_(safe)
    return shrink, [g.mul_(scale) for g in gradient]
