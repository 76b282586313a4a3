"""Images by their place in a buffer: what a launcher reads and writes without gathering or scattering copies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Some images of a buffer; image i of a launch is `buffer[index[i]]`.

    EOT's draws of one image read one row several times; the images of a program that wait for the same transform are some
    rows of a buffer, in any order. No row is written twice by one launch.

    An entry of the index below 0 means that there is no image: a kernel loads the row numbers of what it writes and reads
    before all else, and where one of them is below 0 the program ends there and writes nothing. So one launch over the whole
    batch can leave out any of its images by what the device alone knows, and a fixed sequence of launches runs any programs.

    Attributes:
        buffer: [R, C, H, W], contiguous.
        index: [M] int64, on the buffer's device.
    """

    buffer: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def only(self, some: Tensor) -> "Rows":
        """The same with some of the images alone: [M] bool."""
        return Rows(self.buffer, torch.where(some, self.index, -1))


def every(images: Tensor) -> Rows:
    """All images, in order; a copy is made only where their memory is not contiguous."""
    return Rows(images.contiguous(), torch.arange(len(images), device=images.device))


@dataclass(frozen=True)
class Step:
    """An operation by launchers, as a program runs it on rows of its buffers.

    Attributes:
        forward: (out, images) → what backward needs beside the images.
        backward: (to, grad, images, *kept), which writes the gradient at the images from that at the result.
    """

    forward: Callable[[Rows, Rows], tuple[Tensor, ...]]
    backward: Callable[..., None]
