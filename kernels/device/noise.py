"""Noise by native code and by Triton: drawn in registers, applied, and forgotten."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cannonade.kernels import native
from cannonade.kernels.backend import jit, on_device, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import Rows, every
from cannonade.kernels.philox import normal_jit, philox_jit, uniform_jit

_BLOCKS = 256  # counters of a program, of four numbers each


class Settings(NamedTuple):
    """Of noise that images share.

    Attributes:
        mean, sigma: of the normal noise.
        amount: share of the values that are replaced.
        clip: whether the result is clipped to [0, 1].
    """

    mean: float = 0.0
    sigma: float = 0.0
    amount: float = 0.0
    clip: bool = True


@torch.library.custom_op("cannonade::add_noise", mutates_args=())
def noisy(
    images: Tensor, coordinates: Tensor, kind: Tensor, salt: Tensor, mean: float, sigma: float, amount: float, clip: bool,
    backend: str,
) -> Tensor:  # fmt: skip
    """`add_noise` of `cannonade.kernels.noise`: images [N, C, H, W]."""
    images, settings = images.contiguous(), Settings(mean, sigma, amount, clip)
    out = torch.empty_like(images)
    if backend == "native":
        _run("add_noise", (out, images), coordinates, kind, salt, settings)
    else:
        add_noise_into(every(out), every(images), coordinates, kind, salt, settings)
    return out


@torch.library.custom_op("cannonade::add_noise_adjoint", mutates_args=())
def _adjoint(
    grad: Tensor, images: Tensor, coordinates: Tensor, kind: Tensor, salt: Tensor, mean: float, sigma: float,
    amount: float, clip: bool, backend: str,
) -> Tensor:  # fmt: skip
    images, grad, settings = images.contiguous(), grad.contiguous(), Settings(mean, sigma, amount, clip)
    out = torch.empty_like(images)
    if backend == "native":
        _run("add_noise_adjoint", (out, grad, images), coordinates, kind, salt, settings)
    else:
        add_noise_adjoint_into(every(out), every(grad), every(images), coordinates, kind, salt, settings)
    return out


def _run(name: str, images: tuple[Tensor, ...], coordinates: Tensor, kind: Tensor, salt: Tensor, s: Settings) -> None:
    numbers = (float(s.mean), float(s.sigma), float(s.amount), int(s.clip))
    streams = (coordinates.contiguous(), kind.contiguous(), salt.contiguous())
    native.run(name, *images, *streams, *numbers, len(images[0]), images[0].shape[1:].numel())


@noisy.register_fake
def _(
    images: Tensor, coordinates: Tensor, kind: Tensor, salt: Tensor, mean: float, sigma: float, amount: float, clip: bool,
    backend: str,
) -> Tensor:  # fmt: skip
    return torch.empty_like(images, memory_format=torch.contiguous_format)


@_adjoint.register_fake
def _(
    grad: Tensor, images: Tensor, coordinates: Tensor, kind: Tensor, salt: Tensor, mean: float, sigma: float,
    amount: float, clip: bool, backend: str,
) -> Tensor:  # fmt: skip
    return torch.empty_like(images, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _adjoint(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 8


noisy.register_autograd(_backward, setup_context=_keep)


def add_noise_into(
    out: Rows, images: Rows, coordinates: Tensor, kind: Tensor, salt: Tensor, settings: Settings
) -> None:
    """Noise on images of a buffer; coordinates, kind and salt have a row for each image of the launch."""
    _launch(out, images, images, coordinates, kind, salt, settings, adjoint=False)


def add_noise_adjoint_into(
    to: Rows, grad: Rows, images: Rows, coordinates: Tensor, kind: Tensor, salt: Tensor, settings: Settings
) -> None:
    """The gradient at the images, from that at the results."""
    _launch(to, images, grad, coordinates, kind, salt, settings, adjoint=True)


def _launch(
    out: Rows, images: Rows, grad: Rows, coordinates: Tensor, kind: Tensor, salt: Tensor, settings: Settings, adjoint: bool
) -> None:  # fmt: skip
    values = images.buffer.shape[1:].numel()
    if not len(images) or not values:
        return
    grid = (len(images) * triton.cdiv(values, 4 * _BLOCKS),)
    with on_device(images.buffer):
        _noise_kernel[grid](
            out.buffer, out.index, images.buffer, images.index, grad.buffer, grad.index, coordinates.contiguous(),
            kind.contiguous(), salt.contiguous(), values, float(settings.mean), float(settings.sigma),
            float(settings.amount), CLIP=settings.clip, ADJOINT=adjoint, BLOCKS=_BLOCKS,
        )  # fmt: skip


@jit
def _four(first: tl.tensor, second: tl.tensor, third: tl.tensor, fourth: tl.tensor, BLOCKS: tl.constexpr) -> Any:
    """Four numbers of each counter in the order of the stream: [4·BLOCKS]."""
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), (4 * BLOCKS,))


@jit
def _noise_kernel(
    out_ptr: tl.tensor,
    out_index_ptr: tl.tensor,
    images_ptr: tl.tensor,
    images_index_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_index_ptr: tl.tensor,
    coordinates_ptr: tl.tensor,
    kind_ptr: tl.tensor,
    salt_ptr: tl.tensor,
    values: tl.tensor,
    mean: tl.tensor,
    sigma: tl.tensor,
    amount: tl.tensor,
    CLIP: tl.constexpr,
    ADJOINT: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    tiles = tl.cdiv(values, 4 * BLOCKS)
    image = tl.program_id(0) // tiles
    row, source, after = (
        tl.load(out_index_ptr + image),
        tl.load(images_index_ptr + image),
        tl.load(grad_index_ptr + image),
    )
    if (row < 0) | (source < 0) | (after < 0):
        return
    first = (tl.program_id(0) % tiles) * BLOCKS
    stream = coordinates_ptr + image * 5
    x0, x1, x2, x3 = philox_jit(
        first + tl.arange(0, BLOCKS),
        tl.load(stream + 2),
        tl.load(stream + 3),
        tl.load(stream + 4),
        tl.load(stream),
        tl.load(stream + 1),
    )
    element = first * 4 + tl.arange(0, 4 * BLOCKS)
    own = element < values
    value = tl.load(images_ptr + source * values + element, mask=own, other=0.0).to(tl.float32)
    kind = tl.load(kind_ptr + image)
    if kind == 2:
        uniform = _four(uniform_jit(x0), uniform_jit(x1), uniform_jit(x2), uniform_jit(x3), BLOCKS)
        replaced = uniform < amount
        result = tl.where(replaced, tl.where(uniform < tl.load(salt_ptr + image), 1.0, 0.0), value)
        slope = tl.where(replaced, 0.0, 1.0)
    else:
        n0, n1 = normal_jit(x0, x1)
        n2, n3 = normal_jit(x2, x3)
        noise = _four(n0, n1, n2, n3, BLOCKS) * sigma + mean
        result = value + tl.where(kind == 1, value * noise, noise)
        slope = tl.where(kind == 1, 1.0 + noise, 1.0)
    if ADJOINT:
        grad = tl.load(grad_ptr + after * values + element, mask=own, other=0.0).to(tl.float32)
        written = grad * slope
        if CLIP:
            written = tl.where((result >= 0.0) & (result <= 1.0), written, 0.0)
    else:
        written = result
        if CLIP:
            written = tl.minimum(tl.maximum(result, 0.0), 1.0)
    to = out_ptr + row * values + element
    tl.store(to, written.to(out_ptr.dtype.element_ty), mask=own)


def _case(name: str, adjoint: bool) -> Case:
    pointers = ("out", "images", "grad")
    return Case(
        name=name,
        kernel=_noise_kernel,
        types={f"{of}_{part}": kind for of in pointers for part, kind in (("ptr", "*fp32"), ("index_ptr", "*i64"))}
        | {"coordinates_ptr": "*i64", "kind_ptr": "*i64", "salt_ptr": "*fp32", "values": "i32"}
        | dict.fromkeys(("mean", "sigma", "amount"), "fp32"),
        constants={"CLIP": True, "ADJOINT": adjoint, "BLOCKS": _BLOCKS},
        aligned=("values",),
        bytes_per_pixel=36 if adjoint else 24,
        least_bytes=36 if adjoint else 24,
        operations=3 * 40,  # ten rounds for four numbers, a logarithm and a sine and cosine for two
    )


CASES = (_case("noise", False), _case("noise adjoint", True))
