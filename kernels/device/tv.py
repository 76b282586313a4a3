"""Total-variation denoising by native code and by Triton.

On Triton one program does all iterations of one volume, so that nothing waits for the host and a volume stops by itself. The
alternative, a fixed sequence of launches in tiles with a flag for every volume, shares an image between multiprocessors, but
needs 2 · max_iterations launches whatever the images need; photos take 3 to 63 iterations of 200. What one program costs is a
chain: of an iteration's two passes over the volume, each waits for the other at a barrier, so that a volume of P tiles waits
2 · P · iterations times for the second-level cache, P = 28 for a plane of 224×224 and 84 for three. Batches have many volumes
to fill the GPU with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every

_TILE = (64, 32)  # lines and columns that a program works on at once: eight pixels to a thread, two wide accesses
_WARPS = 8


@torch.library.custom_op("cannonade::tv_solve", mutates_args=())
def tv_solve(
    volumes: Tensor, weight: Tensor, per_channel: Tensor, tolerance: float, max_iterations: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`tv_chambolle` of `cannonade.kernels.tv`, with what its backward needs.

    Args:
        volumes: [M, C, H, W] float32.
        weight: [M] float32.
        per_channel: [M] bool.
        tolerance, max_iterations: as there.
        backend: "triton" or "native".

    Returns:
        The result; a dual [M, axes, C, H, W], of the result with native code and the next one after it on Triton, 0 across the
        channels of an image that has none; the number of steps [M, C], of a volume in its first channel.
    """
    volumes, weight, per_channel = volumes.contiguous(), weight.contiguous(), per_channel.contiguous()
    if backend == "native":
        u, dual, steps = _outputs(volumes, volumes.shape[0])
        settings = (weight, per_channel, tolerance, max_iterations)
        native.run("tv_solve", u, dual, steps, volumes, *settings, *volumes.shape)
        return u, dual, steps
    return tv_into(None, every(volumes), weight, per_channel, tolerance, max_iterations)


@torch.library.custom_op("cannonade::tv_solve_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor, u: Tensor, dual: Tensor, steps: Tensor, weight: Tensor, per_channel: Tensor, backend: str
) -> Tensor:
    grad, weight, per_channel = grad.contiguous(), weight.contiguous(), per_channel.contiguous()
    out = torch.empty_like(u)
    if backend == "native":
        native.run("tv_solve_adjoint", out, grad, u, dual, steps, weight, per_channel, *u.shape)
    else:
        tv_adjoint_into(every(out), every(grad), u, dual, steps, weight, per_channel)
    return out


def _outputs(like: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for u, and a dual and steps of 0."""
    _, channels, height, width = like.shape
    shape, axes = (channels, height, width), 2 if channels == 1 else 3
    return (
        like.new_empty((count, *shape), dtype=torch.float32),
        like.new_zeros((count, axes, *shape), dtype=torch.float32),
        like.new_zeros((count, channels), dtype=torch.int64),
    )


@tv_solve.register_fake
def _(
    volumes: Tensor, weight: Tensor, per_channel: Tensor, tolerance: float, max_iterations: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(volumes, volumes.shape[0])


@_adjoint.register_fake
def _(
    grad: Tensor, u: Tensor, dual: Tensor, steps: Tensor, weight: Tensor, per_channel: Tensor, backend: str
) -> Tensor:
    return torch.empty_like(u)


def _keep(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, int, str], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, *inputs[1:3])
    ctx.backend = inputs[5]


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, ctx.backend), None, None, None, None, None


tv_solve.register_autograd(_backward, setup_context=_keep)


def tv_into(
    out: Rows | None, images: Rows, weight: Tensor, per_channel: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Denoise images of a buffer; weight [M] float32 and per_channel [M] bool have a row for each image of the launch.

    Args:
        out: where results go, clipped to [0, 1], which rounding alone lets them leave; None if only u is wanted.

    Returns:
        u before clipping, dual and steps, as `tv_solve` has them.
    """
    u, dual, steps = _outputs(images.buffer, len(images))
    to = every(u) if out is None else out
    _launch(
        _solve_kernel, to, images, u, dual, steps, weight, per_channel, max_iterations,
        TOLERANCE=tolerance, CLIP=out is not None,
    )  # fmt: skip
    return u, dual, steps


def tv_adjoint_into(
    out: Rows, grad: Rows, u: Tensor, dual: Tensor, steps: Tensor, weight: Tensor, per_channel: Tensor
) -> None:
    """The backward of `tv_into`, from what that returned."""
    count, axes, *shape = dual.shape
    work = dual.new_empty((count, 3 * axes + 2, *shape))
    _launch(_adjoint_kernel, out, grad, u, dual, steps, weight, per_channel, work)


def _launch(kernel: Any, out: Rows, images: Rows, *arguments: Tensor | int, **constants: float | bool) -> None:
    """A program for every channel; where the channels are one volume, the first one's does the work."""
    _, channels, height, width = images.buffer.shape
    if not len(images) or not height * width:
        return
    lines, columns = _TILE
    with on_device(images.buffer):
        kernel[(len(images) * channels,)](
            out.buffer, out.index, images.buffer, images.index, *arguments, channels, height, width, **constants,
            DEEP=channels > 1, LINES=lines, COLUMNS=columns, num_warps=_WARPS,
        )  # fmt: skip


# The rows of all channels of a volume, one after the other, are its lines. Fields with a component along every axis have
# the components `apart`: down, right and, where DEEP, across the channels. A component is 0 at the end of its axis.


@jit
def _places(
    top: tl.tensor, left: tl.tensor, lines: tl.tensor, width: tl.tensor, LINES: tl.constexpr, COLUMNS: tl.constexpr
) -> Any:
    """Of a tile: its lines [LINES, 1], its columns [1, COLUMNS], and which of its pixels exist."""
    line = top + tl.arange(0, LINES)[:, None]
    x = left + tl.arange(0, COLUMNS)[None, :]
    return line, x, (line < lines) & (x < width)


@jit
def _transposed(
    field_ptr: tl.tensor,
    apart: tl.tensor,
    line: tl.tensor,
    x: tl.tensor,
    own: tl.tensor,
    lines: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DEEP: tl.constexpr,
) -> Any:
    """∇ᵀ of a field."""
    down_ptr = field_ptr + line * width + x
    right_ptr = down_ptr + apart
    out = -(tl.load(down_ptr, mask=own, other=0.0) + tl.load(right_ptr, mask=own, other=0.0))
    if DEEP:
        across_ptr = right_ptr + apart
        out -= tl.load(across_ptr, mask=own & (line + height < lines), other=0.0)
    out += tl.load(down_ptr - width, mask=own & (line % height > 0), other=0.0)
    out += tl.load(right_ptr - 1, mask=own & (x > 0), other=0.0)
    if DEEP:
        out += tl.load(across_ptr - height * width, mask=own & (line >= height), other=0.0)
    return out


@jit
def _gradient(
    ptr: tl.tensor,
    line: tl.tensor,
    x: tl.tensor,
    own: tl.tensor,
    lines: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DEEP: tl.constexpr,
) -> Any:
    """∇ of what is at `ptr`: down, right, across."""
    ptr += line * width + x
    here = tl.load(ptr, mask=own, other=0.0)
    above_end, before_end = own & (line % height + 1 < height), own & (x + 1 < width)
    down = tl.where(above_end, tl.load(ptr + width, mask=above_end, other=0.0) - here, 0.0)
    right = tl.where(before_end, tl.load(ptr + 1, mask=before_end, other=0.0) - here, 0.0)
    across = tl.zeros_like(here)
    if DEEP:
        inner = own & (line + height < lines)
        across = tl.where(inner, tl.load(ptr + height * width, mask=inner, other=0.0) - here, 0.0)
    return down, right, across


@jit
def _update(p_ptr: tl.tensor, gradient: tl.tensor, tau: tl.tensor, shrunk: tl.tensor, own: tl.tensor) -> None:
    dual = tl.load(p_ptr, mask=own, other=0.0)
    tl.store(p_ptr, tl.div_rn(dual - tau * gradient, shrunk), mask=own)


@jit
def _tau(alone: tl.tensor, DEEP: tl.constexpr) -> Any:
    """One over twice the number of axes, float32."""
    return tl.where(alone, 0.25, 1 / 6) if DEEP else tl.full((), 0.25, tl.float32)


@jit
def _solve_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    u_ptr: tl.tensor,
    dual_ptr: tl.tensor,
    steps_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    per_channel_ptr: tl.tensor,
    most: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    TOLERANCE: tl.constexpr,
    CLIP: tl.constexpr,
    DEEP: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    image = (tl.program_id(0) // channels).to(tl.int64)
    part = tl.program_id(0) % channels
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    alone = tl.load(per_channel_ptr + image) != 0
    if (part > 0) & (alone == 0):
        return
    plane = height * width
    apart = channels * plane
    lines = tl.where(alone, height, channels * height)
    x_ptr = images_ptr + tl.load(images_index_ptr + image) * apart + part * plane
    u_ptr += image * apart + part * plane
    p_ptr = dual_ptr + image * (apart * (3 if DEEP else 2)) + part * plane
    weight = tl.load(weight_ptr + image)
    tau = _tau(alone, DEEP)
    ratio = tl.div_rn(tau, weight)
    step = tl.full((), 0, tl.int32)
    first = tl.full((), 0.0, tl.float64)
    previous = first
    going = step < most
    while going:
        energies = tl.zeros((LINES, COLUMNS), tl.float64)
        for top in range(0, lines, LINES):
            for left in range(0, width, COLUMNS):
                line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
                moved = _transposed(p_ptr, apart, line, x, own, lines, height, width, DEEP)
                at = line * width + x
                value = tl.load(x_ptr + at, mask=own, other=0.0).to(tl.float32)
                tl.store(u_ptr + at, value + moved, mask=own)
                energies += (moved * moved).to(tl.float64)
        tl.debug_barrier()
        for top in range(0, lines, LINES):
            for left in range(0, width, COLUMNS):
                line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
                down, right, across = _gradient(u_ptr, line, x, own, lines, height, width, DEEP)
                norm = tl.sqrt_rn(down * down + right * right + across * across)
                energies += weight.to(tl.float64) * norm.to(tl.float64)
                shrunk = 1 + ratio * norm
                to_ptr = p_ptr + line * width + x
                _update(to_ptr, down, tau, shrunk, own)
                _update(to_ptr + apart, right, tau, shrunk, own)
                if DEEP:
                    _update(to_ptr + apart + apart, across, tau, shrunk, own & (line + height < lines))
        energy = tl.sum(tl.sum(energies, axis=1), axis=0)
        first = tl.where(step == 0, energy, first)
        enough = tl.where(step == 0, energy == 0, tl.abs(previous - energy) < TOLERANCE * first)
        previous = energy
        going = (enough == 0) & (step + 1 < most)
        step += going.to(tl.int32)
        tl.debug_barrier()
    tl.store(steps_ptr + image * channels + part, step.to(tl.int64))
    if CLIP:
        to_ptr = out_ptr + row * apart + part * plane
        for top in range(0, lines, LINES):
            for left in range(0, width, COLUMNS):
                line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
                at = line * width + x
                value = tl.minimum(tl.maximum(tl.load(u_ptr + at, mask=own, other=0.0), 0.0), 1.0)
                tl.store(to_ptr + at, value.to(out_ptr.dtype.element_ty), mask=own)


@jit
def _along(p_ptr: tl.tensor, gradient: tl.tensor, own: tl.tensor) -> Any:
    """−p·g along one axis."""
    return -tl.load(p_ptr, mask=own, other=0.0) * gradient


@jit
def _linearise(
    fixed_ptr: tl.tensor,
    shrink_ptr: tl.tensor,
    u_ptr: tl.tensor,
    p_ptr: tl.tensor,
    weight: tl.tensor,
    ratio: tl.tensor,
    apart: tl.tensor,
    line: tl.tensor,
    x: tl.tensor,
    own: tl.tensor,
    lines: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DEEP: tl.constexpr,
) -> None:
    """1/s and f as `_linearise` of `cannonade.kernels.tv` has them: of u and the dual that follows it."""
    at = line * width + x
    down, right, across = _gradient(u_ptr, line, x, own, lines, height, width, DEEP)
    norm = tl.sqrt_rn(down * down + right * right + across * across)
    against = _along(p_ptr + at, down, own) + _along(p_ptr + apart + at, right, own)
    if DEEP:
        against += _along(p_ptr + apart + apart + at, across, own & (line + height < lines))
    safe = tl.where(norm > 0, norm, 1.0)
    share = tl.minimum(tl.maximum(tl.div_rn(against, safe * weight), 0.0), 1.0)
    scale = tl.div_rn(tl.sqrt_rn(share), safe)
    tl.store(shrink_ptr + at, tl.div_rn(tl.full((), 1.0, tl.float32), 1 + ratio * norm), mask=own)
    tl.store(fixed_ptr + at, down * scale, mask=own)
    tl.store(fixed_ptr + apart + at, right * scale, mask=own)
    if DEEP:
        tl.store(fixed_ptr + apart + apart + at, across * scale, mask=own)


@jit
def _turn(
    mu_ptr: tl.tensor,
    inward_ptr: tl.tensor,
    fixed_ptr: tl.tensor,
    shrink_ptr: tl.tensor,
    z_ptr: tl.tensor,
    tau: tl.tensor,
    apart: tl.tensor,
    line: tl.tensor,
    x: tl.tensor,
    own: tl.tensor,
    lines: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DEEP: tl.constexpr,
) -> None:
    """From the last μ and z to λ = μ + ∇z, to μ = λ/s, and to m = τ(f(f·μ) − μ)."""
    at = line * width + x
    down, right, across = _gradient(z_ptr, line, x, own, lines, height, width, DEEP)
    shrink = tl.load(shrink_ptr + at, mask=own, other=0.0)
    down = (tl.load(mu_ptr + at, mask=own, other=0.0) + down) * shrink
    right = (tl.load(mu_ptr + apart + at, mask=own, other=0.0) + right) * shrink
    fixed_down = tl.load(fixed_ptr + at, mask=own, other=0.0)
    fixed_right = tl.load(fixed_ptr + apart + at, mask=own, other=0.0)
    inner = down * fixed_down + right * fixed_right
    if DEEP:
        across = (tl.load(mu_ptr + apart + apart + at, mask=own, other=0.0) + across) * shrink
        fixed_across = tl.load(fixed_ptr + apart + apart + at, mask=own, other=0.0)
        inner += across * fixed_across
    inner *= tau
    tl.store(mu_ptr + at, down, mask=own)
    tl.store(mu_ptr + apart + at, right, mask=own)
    tl.store(inward_ptr + at, inner * fixed_down - tau * down, mask=own)
    tl.store(inward_ptr + apart + at, inner * fixed_right - tau * right, mask=own)
    if DEEP:
        tl.store(mu_ptr + apart + apart + at, across, mask=own)
        tl.store(inward_ptr + apart + apart + at, inner * fixed_across - tau * across, mask=own)


@jit
def _adjoint_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    u_ptr: tl.tensor,
    dual_ptr: tl.tensor,
    steps_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    per_channel_ptr: tl.tensor,
    work_ptr: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    DEEP: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    image = (tl.program_id(0) // channels).to(tl.int64)
    part = tl.program_id(0) % channels
    row = tl.load(out_index_ptr + image)
    if row < 0:
        return
    alone = tl.load(per_channel_ptr + image) != 0
    if (part > 0) & (alone == 0):
        return
    plane = height * width
    apart = channels * plane
    axes = 3 if DEEP else 2
    lines = tl.where(alone, height, channels * height)
    v_ptr = grad_ptr + tl.load(grad_index_ptr + image) * apart + part * plane
    u_ptr += image * apart + part * plane
    p_ptr = dual_ptr + image * (apart * axes) + part * plane
    mu_ptr = work_ptr + image * (apart * (3 * axes + 2)) + part * plane
    inward_ptr = mu_ptr + apart * axes
    fixed_ptr = inward_ptr + apart * axes
    shrink_ptr = fixed_ptr + apart * axes
    z_ptr = shrink_ptr + apart
    weight = tl.load(weight_ptr + image)
    tau = _tau(alone, DEEP)
    ratio = tl.div_rn(tau, weight)
    for top in range(0, lines, LINES):
        for left in range(0, width, COLUMNS):
            line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
            _linearise(
                fixed_ptr, shrink_ptr, u_ptr, p_ptr, weight, ratio, apart, line, x, own, lines, height, width, DEEP
            )
            at = line * width + x
            tl.store(z_ptr + at, tl.load(v_ptr + at, mask=own, other=0.0).to(tl.float32), mask=own)
            nothing = tl.zeros((LINES, COLUMNS), tl.float32)
            tl.store(mu_ptr + at, nothing, mask=own)
            tl.store(mu_ptr + apart + at, nothing, mask=own)
            if DEEP:
                tl.store(mu_ptr + apart + apart + at, nothing, mask=own)
    tl.debug_barrier()
    steps = tl.load(steps_ptr + image * channels + part).to(tl.int32)
    for _ in range(0, steps):
        for top in range(0, lines, LINES):
            for left in range(0, width, COLUMNS):
                line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
                _turn(
                    mu_ptr, inward_ptr, fixed_ptr, shrink_ptr, z_ptr, tau, apart, line, x, own, lines, height, width,
                    DEEP,
                )  # fmt: skip
        tl.debug_barrier()
        for top in range(0, lines, LINES):
            for left in range(0, width, COLUMNS):
                line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
                moved = _transposed(inward_ptr, apart, line, x, own, lines, height, width, DEEP)
                at = line * width + x
                value = tl.load(v_ptr + at, mask=own, other=0.0).to(tl.float32)
                tl.store(z_ptr + at, moved + value, mask=own)
        tl.debug_barrier()
    to_ptr = out_ptr + row * apart + part * plane
    for top in range(0, lines, LINES):
        for left in range(0, width, COLUMNS):
            line, x, own = _places(top, left, lines, width, LINES, COLUMNS)
            at = line * width + x
            value = tl.load(z_ptr + at, mask=own, other=0.0)
            tl.store(to_ptr + at, value.to(out_ptr.dtype.element_ty), mask=own)


_ITERATIONS = 30  # photos take 3 to 63


def _case(name: str, kernel: Any, read: str, own: dict[str, str], **settings: Any) -> Case:
    return Case(
        name=name,
        kernel=kernel,
        types={"out_ptr": "*fp32", "out_index_ptr": "*i64", f"{read}_ptr": "*fp32", f"{read}_index_ptr": "*i64"}
        | {"u_ptr": "*fp32", "dual_ptr": "*fp32", "steps_ptr": "*i64", "weight_ptr": "*fp32", "per_channel_ptr": "*i1"}
        | own
        | {"channels": "i32", "height": "i32", "width": "i32"},
        aligned=("height", "width"),
        warps=_WARPS,
        reason="every iteration reads and writes u and the dual, too large for what is next to the arithmetic; the bytes "
        f"are those of {_ITERATIONS} iterations, through the second-level cache where the launch's volumes fit it",
        **settings,
    )


def _solve_case(channels: int) -> Case:
    deep = channels > 1
    fields = 4 if deep else 3  # u and the components of the dual
    return _case(
        f"tv solve, {channels} channels",
        _solve_kernel,
        "images",
        {"most": "i32"},
        constants={"TOLERANCE": 2e-4, "CLIP": deep, "DEEP": deep, "LINES": _TILE[0], "COLUMNS": _TILE[1]},
        bytes_per_pixel=channels * 4 * (_ITERATIONS * 3 * fields + 2),
        least_bytes=channels * 4 * (2 + fields),
        operations=channels * _ITERATIONS * 40,
    )


CASES = (
    _solve_case(3),
    _solve_case(1),
    _case(
        "tv adjoint",
        _adjoint_kernel,
        "grad",
        {"work_ptr": "*fp32"},
        constants={"DEEP": True, "LINES": _TILE[0], "COLUMNS": _TILE[1]},
        # a step reads z, shrink, v and thrice μ, f and m, and writes z, μ and m
        bytes_per_pixel=3 * 4 * (_ITERATIONS * 19 + 14),
        least_bytes=3 * 4 * 6,
        operations=3 * _ITERATIONS * 40,
    ),
)
