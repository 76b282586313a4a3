"""Seam carving: paths of least energy through an image are taken out, one at a time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.seams import expand_adjoint_into, expand_into, seams_index, seams_index_into
from cannonade.kernels.warp import Box, read_pixels

ENERGY_UNIT = 2.0**-30  # whole units add exactly: which seams are equally good depends on no order of additions

_LUMINANCE = (0.2125, 0.7154, 0.0721)


def carve(images: Tensor, vertical: Tensor, horizontal: Tensor, backend: Backend = "auto") -> tuple[Tensor, Box]:
    """Take vertical seams, then horizontal seams out of each image.

    A vertical seam takes one pixel of every row, in neighbouring rows at most one column apart. The one with the least
    sum of energy goes; of several, the one that ends leftmost in the last row and then, row by row upwards, is
    leftmost. The energy is the Sobel magnitude of the luminance in float64, rounded to multiples of 2⁻³⁰ (8-bit photos
    are full of seams that are equal but for rounding), computed once for the vertical and once, on what they leave, for
    the horizontal seams, and carved along with the image. Seams are constants in backward.

    Source: Avidan and Shamir, "Seam carving for content-aware image resizing", SIGGRAPH 2007.

    Args:
        images: [N, 3, H, W].
        vertical: [N] int64, seams that each cost a column, at most W − 2.
        horizontal: [N] int64, seams that each cost a row, at most H − 2.
        backend: "auto", "triton", "native" or "torch"; of the same bits inside the box.

    Returns:
        [N, 3, H, W] with each carved image in its bottom right corner, and the box where it is.
    """
    height, width = images.shape[-2:]
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=images.dtype in NARROW)
    with torch.no_grad():
        if chosen != "torch":
            index: Tensor = seams_index(images, vertical, horizontal, chosen)
        else:
            index = _index(images, vertical, horizontal)
    carved = read_pixels(images, index.flatten(1)).view_as(images)
    return carved, Box(horizontal, vertical, height - horizontal, width - vertical)


def carve_and_expand_step(vertical: Tensor, horizontal: Tensor) -> Step:
    """`carve`, and `resize_crop` of the box to the size of the image with a mirrored border, by launchers.

    Args:
        vertical, horizontal: [M] int64, a row for each image of a launch.
    """

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        index = images.buffer.new_empty((len(images), *images.buffer.shape[2:]), dtype=torch.int32)
        seams_index_into(index, images, vertical, horizontal)
        expand_into(out, images, index, vertical, horizontal)
        return (index,)

    def backward(to: Rows, grad: Rows, images: Rows, index: Tensor) -> None:
        expand_adjoint_into(to, grad, index, vertical, horizontal)

    return Step(forward, backward)


def _index(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Which pixel of its image each pixel of the carved images is: [N, H, W] int64."""
    width = images.shape[-1]
    grey = _luminance(images)
    columns = _kept(_energy(grey), vertical)
    left = torch.arange(width, device=images.device) < vertical[:, None]
    energy = _energy(grey.gather(2, columns)).masked_fill_(left[:, None], 0)  # columns that are gone cost nothing
    rows = _kept(energy.mT, horizontal).mT
    return rows * width + columns.gather(1, rows)


def _luminance(images: Tensor) -> Tensor:
    red, green, blue = (images[:, c].double() * weight for c, weight in enumerate(_LUMINANCE))
    return red.add_(green).add_(blue)


def _energy(grey: Tensor) -> Tensor:
    """Sobel magnitude of [N, H, W], edges replicated, in whole units of `ENERGY_UNIT`."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    down = _smoothed((padded[:, 2:] - padded[:, :-2]).mT).mT
    right = _smoothed(padded[:, :, 2:] - padded[:, :, :-2])
    return down.square_().add_(right.square_()).div_(2).sqrt_().div_(ENERGY_UNIT).round_()


def _smoothed(values: Tensor) -> Tensor:
    """(1, 2, 1)/4 between the rows of [N, H, W]."""
    return (values[:, :-2] + values[:, 2:]).add_(values[:, 1:-1], alpha=2).div_(4)


def _kept(energy: Tensor, counts: Tensor) -> Tensor:
    """Columns that are left after taking out vertical seams.

    Args:
        energy: [N, H, W].
        counts: [N] int64, seams to take out.

    Returns:
        [N, H, W] int64, in every row the columns left, aligned right; the first of them is repeated before them.
    """
    order = counts.argsort(descending=True)  # so that the images with seams to go are always the first ones
    remaining = counts[order].tolist()
    energy = energy[order].transpose(0, 1).contiguous()  # a row of all images is the unit of work
    width = energy.shape[2]
    places = torch.arange(width, device=energy.device)
    kept = places.expand_as(energy).clone()
    cost = F.pad(torch.empty_like(energy), (1, 1), value=math.inf)
    for step in range(max(remaining, default=0)):
        active = sum(count > step for count in remaining)
        seam = _seam(energy[:, :active, step:], cost[:, :active, step:])
        _remove(energy[:, :active, step:], seam)
        _remove(kept[:, :active, step:], seam)
        cost[:, :, step + 1] = math.inf  # the next table begins a column further right
    kept = kept.gather(2, torch.maximum(places, counts[order][:, None]).expand_as(kept))
    return kept.transpose(0, 1)[order.argsort()]


def _seam(energy: Tensor, cost: Tensor) -> Tensor:
    """The least vertical seam of [H, N, W]: its column in each row, [H, N].

    Args:
        cost: [H, N, W + 2], work space; its first and last columns are infinite.
    """
    # Views of all rows are made at once: cut one by one they would cost more than the arithmetic.
    left, middle, right = (part.unbind() for part in (cost[:, :, :-2], cost[:, :, 1:-1], cost[:, :, 2:]))
    middle[0].copy_(energy[0])
    best = torch.empty_like(energy[0])
    for row, own in enumerate(energy.unbind()[1:]):
        torch.minimum(left[row], right[row], out=best)
        torch.minimum(best, middle[row], out=best)
        torch.add(best, own, out=middle[row + 1])
    return _traced(cost)


def _traced(cost: Tensor) -> Tensor:
    """The seam that ends in the first of the least costs [H, N, W + 2]: [H, N]."""
    rows = torch.arange(len(cost), device=cost.device)
    # A step goes to column − 1, + 0 or + 1; with `rows` added to columns it adds 0, 1 or 2, the place among the three.
    around = (torch.arange(3, device=cost.device) - rows[:, None]).unbind()
    place = cost[-1, :, 1:-1].argmin(dim=1, keepdim=True)
    places = [place]
    for above, three in zip(reversed(cost.unbind()[:-1]), around, strict=False):
        place = place + above.gather(1, place + three).argmin(dim=1, keepdim=True)
        places.append(place)
    return (torch.cat(places, dim=1) - rows).mT.flip(0)


def _remove(values: Tensor, seam: Tensor) -> None:
    """Take the seam out of [H, N, W] in place: what is left of it moves right by one."""
    places = torch.arange(1, values.shape[2], device=values.device)
    values[:, :, 1:] = torch.where(places <= seam[:, :, None], values[:, :, :-1], values[:, :, 1:])
