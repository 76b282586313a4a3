"""Decoded pixels as images: planes of floats."""

import numpy as np
from torch import Tensor

from cannonade.kernels import native


def fill_planes(out: Tensor, pixels: Tensor, mirrored: bool) -> None:
    """Write the pixels of one image as planes, mirrored left and right or not.

    Always on the calling thread, for callers that share images out between threads themselves: PyTorch would share each image
    out once more, and waiting for its threads on busy cores takes many times as long as the work.

    Args:
        out: [3, H, W] float32, contiguous: the values over 255, with the bits of PyTorch's division.
        pixels: [H, W, 3] uint8.
        mirrored: whether each row is read backwards.
    """
    if native.available():
        native.run("planes", out, pixels.contiguous(), *pixels.shape[:2], int(mirrored))
    else:
        values = pixels.numpy().transpose(2, 0, 1)
        np.divide(values[:, :, ::-1] if mirrored else values, np.float32(255), out=out.numpy())
