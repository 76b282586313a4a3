"""Noise drawn and applied in one pass: no tensor of noise is kept, backward draws it again."""

from enum import IntEnum

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.noise import Settings, add_noise_adjoint_into, add_noise_into, noisy
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.groups import by_group
from cannonade.kernels.philox import draw
from cannonade.kernels.pointwise import clip


class Noise(IntEnum):
    """What noise does to a value x: x + n, x + x·n, or, with a uniform number, x replaced by 0 or 1."""

    ADDED = 0
    MULTIPLIED = 1
    REPLACED = 2


def add_noise(
    images: Tensor, coordinates: Tensor, kind: Tensor, salt: Tensor, settings: Settings, backend: Backend = "auto"
) -> Tensor:
    """Noise of each image's own kind, the element e of its stream for the value e of the image.

    Gradient: exact, the clip's zero included; zero where a value was replaced.

    Args:
        images: [N, C, H, W].
        coordinates: [N, 5] int64, of the streams (see `cannonade.kernels.philox.draw`).
        kind: [N] int64, of `Noise`.
        salt: [N] float32: uniform numbers below it make a 1, other numbers below `settings.amount` a 0.
        settings: mean and sigma of the normal noise, the share of values replaced, and whether the result is clipped.
        backend: "auto", "triton", "native" or "torch"; they differ by the rounding of normal numbers, 2e-6.

    Returns:
        [N, C, H, W].
    """
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    if chosen != "torch":
        added: Tensor = noisy(images, coordinates, kind, salt, *settings, chosen)
        return added
    mean, sigma, amount, clipped = settings

    def one_kind(key: int, rows: Tensor) -> Tensor:
        own, streams, count = images[rows], coordinates[rows], images.shape[1:].numel()
        if key == Noise.REPLACED:
            uniform = draw(streams, count, "uniform").view(own.shape)
            extremes = (uniform < salt[rows][:, None, None, None]).to(own.dtype)
            return torch.where(uniform < amount, extremes, own)
        noise = (draw(streams, count, "normal").view(own.shape) * sigma + mean).to(own.dtype)
        return own + (noise if key == Noise.ADDED else own * noise)

    out = by_group(kind, one_kind)
    return clip(out) if clipped else out


def noise_step(coordinates: Tensor, kind: Tensor, salt: Tensor, settings: Settings) -> Step:
    """`add_noise` by launchers."""

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        add_noise_into(out, images, coordinates, kind, salt, settings)
        return ()

    def backward(to: Rows, grad: Rows, images: Rows) -> None:
        add_noise_adjoint_into(to, grad, images, coordinates, kind, salt, settings)

    return Step(forward, backward)
