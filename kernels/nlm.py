"""Non-local means: every pixel becomes a mean of its neighbourhood, weighted by how alike the patches are."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.nlm import Problems, Slopes, mean_into, nlm_mean, slopes_of
from cannonade.kernels.device.rows import Rows, Step
from cannonade.kernels.device.wavelet import add_sigma_gradient, sigma_of_rows
from cannonade.kernels.groups import by_group
from cannonade.kernels.wavelet import LOW_PASS

_CUTOFF = 5.0  # patches farther apart get weight 0

_Window = tuple[int, int, int, int]  # top, left, height, width


def nl_means(
    images: Tensor,
    h: Tensor,
    patch: int | Tensor,
    distance: int | Tensor,
    constant_weights: bool = False,
    backend: Backend = "auto",
    largest: tuple[int, int] | None = None,
) -> Tensor:
    """Mean over the (2·distance + 1)² neighbours q of p with weights exp(−D(p, q)), 0 where D > 5.

    With s the patch size, made odd by adding one, and o = ⌊s/2⌋, D(p, q) is the sum over the channels and the 2o × 2o
    pixels at offsets −o + 1 … o of the squared difference, divided by C·h²·s². The image is extended by mirroring
    without repeating the edge. As D(p, q) = D(q, p), half of the shifts are computed, each weight serving both its
    ends.

    Backward computes the weights again, shift by shift, and keeps no more than the padded image and the result.

    Source: Darbon, Cunha, Chan, Osher and Jensen, "Fast nonlocal filtering applied to electron cryomicroscopy", ISBI
    2008; Froment, "Parameter-free fast pixelwise non-local means denoising", IPOL 2014; scikit-image's
    `denoise_nl_means` with `fast_mode=True`.

    Args:
        images: [M, C, H, W] with sides greater than o + distance.
        h: [M] positive: the larger, the smoother.
        patch: side of the patches, at least 2: a number, or [M] int64.
        distance: largest shift along an axis: a number, or [M] int64.
        constant_weights: whether backward takes the weights as constants, which is half the work.
        backend: "auto", "triton", "native" or "torch". They differ by rounding, and where that moves a patch across the cut.
        largest: bounds of `patch` and `distance`, which Triton asks the device for if they are tensors and this is left out.

    Returns:
        [M, C, H, W] within the range of its image up to rounding.
    """
    sides, distances = _each(patch, images) | 1, _each(distance, images)
    on_gpu = images.dtype in NARROW and images.shape[1] in (1, 3)
    chosen = choose(backend, images, native=images.dtype == torch.float32, on_gpu=on_gpu)
    if chosen != "torch":
        wide = images.float()
        scale = _scale(images.shape[1], sides, h).to(wide.dtype)[:, None, None, None]
        offset, reach = (0, 0) if chosen == "native" else (_largest(value) for value in largest or (sides, distance))
        settings = (max(offset // 2, 1), reach, constant_weights, chosen)
        mean: Tensor = nlm_mean(wide * scale, sides // 2, distances, *settings)[0]
        return (mean / scale).to(images.dtype)
    scale = _scale(images.shape[1], sides, h).to(images.dtype)[:, None, None, None]

    def group(key: int, rows: Tensor) -> Tensor:
        offset, own = key >> 16, key % (1 << 16)
        padded = torch.nn.functional.pad((images * scale)[rows], (offset + own,) * 4, mode="reflect")
        mean: Tensor = _Mean.apply(padded, offset, own, constant_weights)
        return mean

    return by_group(sides // 2 * (1 << 16) + distances, group) / scale


def denoise_step(
    strength: Tensor,
    together: Tensor,
    patch: Tensor,
    distance: Tensor,
    largest: tuple[int, int],
    constant_weights: bool,
) -> Step:
    """Non-local means as strong as the noise found in the image, by launchers; a row for each image of a launch.

    An image without an estimate of at least 1e-6 stays as it is, or a channel by itself. What rounding puts outside [0, 1] is
    clipped, with the identity as the clip's backward.

    Args:
        strength: [M], h in units of the noise's standard deviation.
        together: [M] bool, whether the channels are one volume, for the mean of their noise.
        patch, distance: [M] int64, as `nl_means` has them.
        largest: their bounds.
        constant_weights: whether backward takes the weights as constants.
    """

    def problems(sigma: Tensor) -> Problems:
        found = sigma >= 1e-6
        channels = torch.where(together, sigma.shape[1], 1)[:, None]
        scale = torch.where(found, _scale(channels, (patch | 1)[:, None], sigma * strength[:, None]), 1)
        own = torch.where(found, distance[:, None], 0)
        return Problems(scale.float(), patch // 2, own, together, largest[0] // 2, largest[1], constant_weights)

    low = LOW_PASS["db2"]

    def forward(out: Rows, images: Rows) -> tuple[Tensor, ...]:
        sigma, places, slopes = sigma_of_rows(images, low)
        sigma = _shared(sigma, together)
        kept = mean_into(out, images, problems(sigma), inside=True)
        return (*kept, sigma) if constant_weights else (*kept, sigma, places, slopes)

    def backward(
        to: Rows, grad: Rows, images: Rows, mean: Tensor, mass: Tensor, sigma: Tensor, *coefficients: Tensor
    ) -> None:
        own = problems(sigma)
        slopes = slopes_of(grad, images, own, mean, mass)
        slopes.fold_into(to)
        if coefficients:
            places, by_coefficient = coefficients
            add_sigma_gradient(to, _slope_by_sigma(slopes, grad, mean, own, sigma), places, by_coefficient, low)

    return Step(forward, backward)


def _shared(values: Tensor, together: Tensor) -> Tensor:
    """[M, C], each image's mean for all its channels where they are taken together."""
    return torch.where(together[:, None], values.mean(1, keepdim=True), values)


def _slope_by_sigma(slopes: Slopes, grad: Rows, mean: Tensor, problems: Problems, sigma: Tensor) -> Tensor:
    """The gradient [M, C] at the noise of each channel, which the scale is inverse to, 0 where none was found.

    With the image scaled by s, the result is mean(s·x)/s: where s grows, what its inside gets is more than its outside loses.
    """
    gain = (slopes.values * slopes.extended).sum((2, 3), dtype=torch.float64)
    loss = (grad.buffer[grad.index].float() * mean).sum((2, 3), dtype=torch.float64)
    by_sigma = _shared(loss - gain, problems.together) / (problems.scale * sigma)
    return torch.where(sigma >= 1e-6, by_sigma, 0)


def _scale(channels: int | Tensor, sides: Tensor, h: Tensor) -> Tensor:
    """What makes the distance of two patches a plain sum of squares of differences."""
    root = channels.double().sqrt() if isinstance(channels, Tensor) else sqrt(channels)
    return 1 / (root * (sides * h))


def _largest(value: int | Tensor) -> int:
    """The greatest of some numbers, 1 of none."""
    if isinstance(value, Tensor):
        return int(value.max()) if value.numel() else 1
    return value


def _each(value: int | Tensor, images: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((len(images),), value, device=images.device)


@dataclass(frozen=True)
class _Shift:
    """Pixels p and q = p + shift of a padded image, for the p of which p or q lies in the image.

    Windows are (top, left, height, width) in the padded image.
    """

    first: _Window  # all p
    second: _Window  # all q
    core_p: _Window  # the p inside the image, relative to `first`
    core_q: _Window  # the p whose q is inside the image, relative to `first`

    def grown(self, before: int, after: int) -> tuple[_Window, _Window]:
        """The windows of p and of q with a margin."""
        first, second = (
            (top - before, left - before, height + before + after, width + before + after)
            for top, left, height, width in (self.first, self.second)
        )
        return first, second


def _shifts(height: int, width: int, offset: int, distance: int) -> Iterator[_Shift]:
    """One of every two opposite shifts, without the zero shift."""
    edge = offset + distance
    for down in range(-distance, distance + 1):
        for right in range(0 if down > 0 else 1, distance + 1):
            top, rows = edge - max(down, 0), height + abs(down)
            left, columns = edge - right, width + right
            yield _Shift(
                (top, left, rows, columns),
                (top + down, left + right, rows, columns),
                (edge - top, right, height, width),
                (edge - top - down, 0, height, width),
            )


def _cut(x: Tensor, window: _Window) -> Tensor:
    top, left, height, width = window
    return x[:, :, top : top + height, left : left + width]


class _Buffers:
    """Memory used again for every shift: a tensor of any smaller shape without allocating."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        if name not in self._flat or len(self._flat[name]) < size:
            self._flat[name] = self._like.new_empty(size)
        return self._flat[name][:size].view(shape)


def _box(x: Tensor, offset: int, buffers: _Buffers) -> Tensor:
    """Sums over 2·offset × 2·offset windows of [M, 1, H, W], by pairs: offset additions along each axis."""
    for axis in (2, 3):
        shape = list(x.shape)
        shape[axis] -= 1
        pairs = buffers(f"pairs {axis}", *shape)
        torch.add(x.narrow(axis, 0, shape[axis]), x.narrow(axis, 1, shape[axis]), out=pairs)
        shape[axis] -= 2 * offset - 2
        out = buffers(f"box {axis}", *shape)
        starts = [pairs.narrow(axis, 2 * pair, shape[axis]) for pair in range(offset)]
        if offset == 1:
            out.copy_(starts[0])
        else:
            torch.add(starts[0], starts[1], out=out)
        for more in starts[2:]:
            out.add_(more)
        x = out
    return x


def _weights(padded: Tensor, shift: _Shift, offset: int, buffers: _Buffers) -> tuple[Tensor, Tensor]:
    """exp(−D) for every p of a shift [M, 1, h, w], and the differences that D was made of (a margin around them)."""
    first, second = shift.grown(offset - 1, offset)
    p, q = _cut(padded, first), _cut(padded, second)
    difference = torch.sub(p, q, out=buffers("difference", *p.shape))
    channels = difference.split(1, dim=1)
    square = torch.mul(channels[0], channels[0], out=buffers("square", *channels[0].shape))
    for channel in channels[1:]:
        square.addcmul_(channel, channel)
    apart = _box(square, offset, buffers)
    # Clamped before exp, whose underflow costs a CPU twenty times its usual time.
    weight = apart.clamp_(max=_CUTOFF + 1).neg_().exp_()
    return torch.nn.functional.threshold(weight, exp(-_CUTOFF), 0.0, inplace=True), difference


class _Mean(torch.autograd.Function):
    """The weighted mean of an image that is padded and scaled such that D is a plain sum of squares."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, offset: int, distance: int, constant_weights: bool) -> Tensor:
        edge = offset + distance
        height, width = padded.shape[2] - 2 * edge, padded.shape[3] - 2 * edge
        core = (edge, edge, height, width)
        total = _cut(padded, core).clone(memory_format=torch.contiguous_format)  # every pixel itself, with weight 1
        mass = torch.ones_like(total[:, :1])
        buffers = _Buffers(padded)
        for shift in _shifts(height, width, offset, distance):
            weight, _ = _weights(padded, shift, offset, buffers)
            for window, other in ((shift.core_p, shift.second), (shift.core_q, shift.first)):
                share = _cut(weight, window)
                total.addcmul_(share, _cut(_cut(padded, other), window))
                mass.add_(share)
        mean = total.div_(mass)
        ctx.save_for_backward(padded, mean, mass)
        ctx.offset, ctx.distance, ctx.constant_weights = offset, distance, constant_weights
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        padded, mean, mass = ctx.saved_tensors
        offset, distance = ctx.offset, ctx.distance
        edge = offset + distance
        # Of Σ_q w(p, q)·x(q): g/mass; and of every w(p, q): g/mass·x(q) − g/mass·mean(p). Both are 0 outside the image.
        pull = torch.nn.functional.pad(grads[0] / mass, (edge,) * 4)
        push = torch.nn.functional.pad((grads[0] * mean).sum(1, keepdim=True) / mass, (edge,) * 4)
        result = pull.clone()
        buffers = _Buffers(padded)
        for shift in _shifts(mean.shape[2], mean.shape[3], offset, distance):
            weight, difference = _weights(padded, shift, offset, buffers)
            for window, own, other in (
                (shift.core_p, shift.first, shift.second),
                (shift.core_q, shift.second, shift.first),
            ):
                _cut(_cut(result, other), window).addcmul_(_cut(weight, window), _cut(_cut(pull, own), window))
            if not ctx.constant_weights:
                _through_weights(result, padded, pull, push, shift, weight, difference, offset, buffers)
        return result, None, None, None


def _through_weights(
    result: Tensor,
    padded: Tensor,
    pull: Tensor,
    push: Tensor,
    shift: _Shift,
    weight: Tensor,
    difference: Tensor,
    offset: int,
    buffers: _Buffers,
) -> None:
    """Add the gradient that reaches the pixels by the distances of one shift."""
    # The gradient of D(p, q), embedded in zeros such that the adjoint of the box sum is a box sum.
    margin = 2 * offset - 1
    batch, _, rows, columns = weight.shape
    embedded = buffers("embedded", batch, 1, rows + 2 * margin, columns + 2 * margin)
    for border in (embedded[:, :, :margin], embedded[:, :, -margin:]):
        border.zero_()
    for border in (embedded[..., :margin], embedded[..., -margin:]):
        border.zero_()
    inner = torch.add(
        _cut(push, shift.first), _cut(push, shift.second), out=_cut(embedded, (margin, margin, rows, columns))
    )
    for own, other in ((shift.first, shift.second), (shift.second, shift.first)):
        for a, x in zip(_cut(pull, own).split(1, dim=1), _cut(padded, other).split(1, dim=1), strict=True):
            inner.addcmul_(a, x, value=-1)
    inner.mul_(weight)
    flow = difference.mul_(_box(embedded, offset, buffers))
    first, second = shift.grown(offset - 1, offset)
    _cut(result, first).add_(flow, alpha=2)
    _cut(result, second).sub_(flow, alpha=2)
