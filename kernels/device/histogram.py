"""Histogram equalisation, percentile stretching and CLAHE by native code."""

from typing import Any

import torch
from torch import Tensor

from cannonade.kernels import native

NOISE = 2.0**-20  # a value up to it is black: float32's rounding noise has no colour


@torch.library.custom_op("cannonade::equalise", mutates_args=())
def equalised_by_shares(planes: Tensor, bins: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Equalised planes [P, H, W] float32, and the distribution [P, size] of each; bins [P] int64, at most size."""
    planes = planes.contiguous()
    out, shares = _with_shares(planes, size)
    native.run("equalise", out, shares, planes, bins.contiguous(), size, *_sizes(planes))
    return out, shares


@torch.library.custom_op("cannonade::equalise_adjoint", mutates_args=())
def _equalise_adjoint(grad: Tensor, shares: Tensor, planes: Tensor, bins: Tensor) -> Tensor:
    planes = planes.contiguous()
    out = torch.empty_like(planes)
    arguments = (grad.contiguous(), shares, planes, bins.contiguous(), shares.shape[1])
    native.run("equalise_adjoint", out, *arguments, *_sizes(planes))
    return out


@torch.library.custom_op("cannonade::stretch", mutates_args=())
def stretched_by_percentiles(planes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Stretched planes [P, H, W] float32, and what backward needs; low and high [P] float64.

    Returns:
        The planes; places [P, 4] int64 of the values that the percentiles lie between; numbers [P, 4] float32: the lower
        percentile, the spread, and how far each percentile is from the first of its two values to the second.
    """
    planes = planes.contiguous()
    out, places, numbers = _with_places(planes)
    native.run("stretch", out, places, numbers, planes, low.contiguous(), high.contiguous(), *_sizes(planes))
    return out, places, numbers


@torch.library.custom_op("cannonade::stretch_adjoint", mutates_args=())
def _stretch_adjoint(grad: Tensor, places: Tensor, numbers: Tensor, planes: Tensor) -> Tensor:
    planes = planes.contiguous()
    out = torch.empty_like(planes)
    native.run("stretch_adjoint", out, grad.contiguous(), places, numbers, planes, *_sizes(planes))
    return out


@torch.library.custom_op("cannonade::clahe", mutates_args=())
def clahe_by_tiles(
    planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor, with_slope: bool
) -> tuple[Tensor, Tensor]:
    """CLAHE of planes [P, H, W] float32 and its slope, of no rows where it is not asked for; clip_limit [P] float64."""
    planes = planes.contiguous()
    out, slope = _with_slope(planes, with_slope)
    native.run(
        "clahe", out, slope, planes, rows.contiguous(), columns.contiguous(), clip_limit.contiguous(), int(with_slope),
        *planes.shape,
    )  # fmt: skip
    return out, slope


@torch.library.custom_op("cannonade::replace_values", mutates_args=())
def replace_values(images: Tensor, new_value: Tensor, slope: Tensor) -> Tensor:
    """`replace_value` of `cannonade.kernels.histogram`, float32."""
    images = images.contiguous()
    out = torch.empty_like(images)
    native.run("replace_values", out, images, new_value.contiguous(), NOISE, *_pixels(images))
    return out


@torch.library.custom_op("cannonade::replace_values_adjoint", mutates_args=())
def _replace_adjoint(grad: Tensor, images: Tensor, new_value: Tensor, slope: Tensor) -> Tensor:
    images = images.contiguous()
    out = torch.empty_like(images)
    arguments = (grad.contiguous(), images, new_value.contiguous(), slope.contiguous(), NOISE)
    native.run("replace_values_adjoint", out, *arguments, *_pixels(images))
    return out


def _pixels(images: Tensor) -> tuple[int, int]:
    return len(images), images.shape[2:].numel()


def _sizes(planes: Tensor) -> tuple[int, int]:
    return len(planes), planes.shape[1:].numel()


def _like(planes: Tensor) -> Tensor:
    return torch.empty_like(planes, memory_format=torch.contiguous_format)


def _with_shares(planes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _like(planes), planes.new_zeros(planes.shape[0], size)


def _with_places(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    places = planes.new_empty((planes.shape[0], 4), dtype=torch.int64)
    return _like(planes), places, planes.new_empty((planes.shape[0], 4))


def _with_slope(planes: Tensor, with_slope: bool) -> tuple[Tensor, Tensor]:
    return _like(planes), planes.new_empty((planes.shape[0] if with_slope else 0, *planes.shape[1:]))


@equalised_by_shares.register_fake
def _(planes: Tensor, bins: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _with_shares(planes, size)


@_equalise_adjoint.register_fake
def _(grad: Tensor, shares: Tensor, planes: Tensor, bins: Tensor) -> Tensor:
    return _like(planes)


@stretched_by_percentiles.register_fake
def _(planes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _with_places(planes)


@_stretch_adjoint.register_fake
def _(grad: Tensor, places: Tensor, numbers: Tensor, planes: Tensor) -> Tensor:
    return _like(planes)


@clahe_by_tiles.register_fake
def _(planes: Tensor, rows: Tensor, columns: Tensor, clip_limit: Tensor, with_slope: bool) -> tuple[Tensor, Tensor]:
    return _with_slope(planes, with_slope)


def _keep_shares(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:2])


def _equalise_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    return _equalise_adjoint(grad, *ctx.saved_tensors), None, None


def _keep_places(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], inputs[0])


def _stretch_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
    return _stretch_adjoint(grad, *ctx.saved_tensors), None, None


equalised_by_shares.register_autograd(_equalise_backward, setup_context=_keep_shares)
stretched_by_percentiles.register_autograd(_stretch_backward, setup_context=_keep_places)


@replace_values.register_fake
def _(images: Tensor, new_value: Tensor, slope: Tensor) -> Tensor:
    return _like(images)


@_replace_adjoint.register_fake
def _(grad: Tensor, images: Tensor, new_value: Tensor, slope: Tensor) -> Tensor:
    return _like(images)


def _keep_values(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _replace_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _replace_adjoint(grad, *ctx.saved_tensors), None, None


replace_values.register_autograd(_replace_backward, setup_context=_keep_values)
