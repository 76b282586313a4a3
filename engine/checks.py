"""Checks at the door of an attack or a vote: once per call, never inside forward, where they would wait for the device."""

import torch
from torch import Tensor

from cannonade.errors import InputError

_BYTES = 2  # images that leave [0, 1] by noise, as in randomised smoothing, stay far below; 8-bit ones do not


def check_layout(images: Tensor) -> None:
    """Raise InputError unless the images are RGB, [N, 3, H, W], floating point."""
    if images.dim() != 4 or images.shape[1] != 3:
        hint = "; move the channels first" if images.dim() == 4 and images.shape[3] == 3 else ""
        raise InputError(f"images must be RGB, [N, 3, H, W], got {list(images.shape)}{hint}")
    if not images.is_floating_point():
        raise InputError(f"images must be floating point in [0, 1], got {images.dtype}; divide 8-bit images by 255")


def check_scale(images: Tensor) -> None:
    """Raise InputError where the images look like 0 … 255; those that leave [0, 1] by noise pass. Waits for the device."""
    if float(highest := images.detach().mean(dim=(1, 2, 3)).max()) > _BYTES:
        raise InputError(f"images must be in [0, 1], got one with a mean of {highest:.4g}; divide 8-bit images by 255")


def check_images(images: Tensor, goals: int | None = None, ids: Tensor | None = None) -> Tensor:
    """Check a batch and its ids.

    Args:
        images: [N, 3, H, W], floating point, in [0, 1].
        goals: how many goals came with them; None for none.
        ids: [N] int64 in [0, 2^32); 0 … N−1 by default.

    Returns:
        The ids, on the images' device.

    Raises:
        InputError: says what must hold, what came and what to do.
    """
    check_layout(images)
    if len(images):
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            hint = "; divide 8-bit images by 255" if high > _BYTES else ""
            raise InputError(f"images must be in [0, 1] without NaN, got [{float(low):.4g}, {float(high):.4g}]{hint}")
    if goals is not None and goals != len(images):
        raise InputError(f"there must be one label or target per image, got {goals} for {len(images)} images")
    if ids is None:
        return torch.arange(len(images), device=images.device)
    if ids.shape != (len(images),) or ids.is_floating_point():
        raise InputError(f"ids must be one integer per image, got {list(ids.shape)} {ids.dtype}")
    if len(ids) and not (ids.min() >= 0 and ids.max() < 1 << 32):
        raise InputError(f"ids must be in [0, 2^32), got {int(ids.min())} to {int(ids.max())}")
    return ids.to(images.device, torch.int64)
