"""Seam carving by native code."""

import torch
from torch import Tensor

from cannonade.kernels import native


@torch.library.custom_op("cannonade::seams_index", mutates_args=())
def seams_index(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Which pixel each pixel of the carved images comes from: [N, 3, H, W] float32 and [N] int64 twice to [N, H, W] int64."""
    images = images.contiguous()
    count, _, height, width = images.shape
    out = images.new_empty((count, height, width), dtype=torch.int64)
    native.run("seams_index", out, images, vertical.contiguous(), horizontal.contiguous(), count, height, width)
    return out


@seams_index.register_fake
def _(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    return images.new_empty((images.shape[0], *images.shape[2:]), dtype=torch.int64)
