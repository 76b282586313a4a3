"""The orthogonal wavelet transform of planes, its inverse, the adjoints of both, and an estimate of noise from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.wavelet import noise_sigma

_HALF = 0.7071067811865476
# Decomposition low-pass filters, as PyWavelets 1.8 lists them (Daubechies, "Ten Lectures on Wavelets", 1992).
LOW_PASS: dict[str, tuple[float, ...]] = {
    "haar": (_HALF, _HALF),
    "db1": (_HALF, _HALF),
    "db2": (-0.12940952255126037, 0.2241438680420134, 0.8365163037378079, 0.48296291314453416),
    "sym9": (
        0.0014009155259146807,
        0.0006197808889855868,
        -0.013271967781817119,
        -0.01152821020767923,
        0.03022487885827568,
        0.0005834627461258068,
        -0.05456895843083407,
        0.238760914607303,
        0.717897082764412,
        0.6173384491409358,
        0.035272488035271894,
        -0.19155083129728512,
        -0.018233770779395985,
        0.06207778930288603,
        0.008859267493400484,
        -0.010264064027633142,
        -0.0004731544986800831,
        0.0010694900329086053,
    ),
}
_QUARTILE = 0.6744897501960817  # of the standard normal: the median of |noise| in units of its deviation


def high_pass(low: tuple[float, ...]) -> tuple[float, ...]:
    """The decomposition high-pass filter of an orthogonal wavelet: reversed, with alternating signs."""
    return tuple((1 if tap % 2 else -1) * value for tap, value in enumerate(reversed(low)))


def levels(height: int, width: int, taps: int) -> int:
    """How many levels to decompose: three fewer than the most that keep the border out, and at least one."""
    # ⌊log2(side / (taps − 1))⌋ by integers
    deepest = max((min(height, width) // (taps - 1)).bit_length() - 1, 0)
    return max(deepest - 3, 1)


def estimate_sigma(planes: Tensor, backend: Backend = "auto") -> Tensor:
    """The standard deviation of a plane's noise: the median of its finest diagonal db2 coefficients over 0.67449.

    Coefficients that are exactly 0 do not count, and NaN is returned where all of them are. To agree on which are 0,
    the sums are taken in PyWavelets' order. The gradient is exact: it goes through the one or two middle coefficients.

    Source: Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81 (1994), section 4.2;
    scikit-image's `estimate_sigma`.

    Args:
        planes: [M, H, W].
        backend: "auto", "triton" or "torch"; they differ by rounding, and in which of equal coefficients gets the gradient.

    Returns:
        [M] float64.
    """
    low = LOW_PASS["db2"]
    if choose(backend, planes, on_gpu=planes.dtype in NARROW) == "triton":
        sigma: Tensor = noise_sigma(planes, list(low), "triton")[0]
        return sigma
    with torch.no_grad():
        diagonal = _diagonal(planes.double(), low)
        middle = middle_magnitudes(diagonal)[1]
    if not planes.requires_grad:
        return sigma_of(diagonal.flatten(1).gather(1, middle), diagonal)
    return sigma_of(_coefficients(planes, middle, low), diagonal)


@dataclass
class Pyramid:
    """A decomposition. Sub-bands are [M, width, height]: axes swapped, so that both filters run along the rows."""

    approximation: Tensor  # of the deepest level
    levels: list[Tensor]  # finest first: [3, M, width, height], low-high, high-low, high-high along (rows, columns)
    sizes: list[tuple[int, int]]  # height and width of what each level was made from


def _reflected(length: int, first: int, count: int, device: torch.device) -> Tensor:
    """Indices of positions first … first + count − 1 of a sequence extended by reflection with its ends repeated."""
    return _reflect(torch.arange(first, first + count, device=device), length)


def _extend(x: Tensor, taps: int) -> Tensor:
    """Rows taps − 2 before the first to as many as the filters reach."""
    half = (x.shape[1] + taps - 1) // 2
    return x.index_select(1, _reflected(x.shape[1], 2 - taps, 2 * half + taps - 2, x.device))


def _fold(extended: Tensor, length: int, taps: int) -> Tensor:
    """The adjoint of `_extend`: every row is the sum of its copies."""
    out = extended.new_zeros(extended.shape[0], length, extended.shape[2])
    first, last = 2 - taps, extended.shape[1] + 2 - taps
    for segment in range(first // length, -(-last // length)):
        low, high = max(first, segment * length), min(last, (segment + 1) * length)
        copies = extended[:, low - first : high - first]
        start = low - segment * length
        if segment % 2:
            copies, start = copies.flip(1), (segment + 1) * length - high
        out[:, start : start + high - low] += copies
    return out


def _filter(extended: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Σ_j taps[j]·x[2k + 1 − j] along the rows, in the order of j with every product rounded."""
    half = (extended.shape[1] + 2 - len(taps)) // 2
    total = extended[:, len(taps) - 1 :: 2][:, :half] * taps[0]
    product = torch.empty_like(total)
    for tap, value in enumerate(taps[1:], start=1):
        torch.mul(extended[:, len(taps) - 1 - tap :: 2][:, :half], value, out=product)
        total += product
    return total


def _spread(low_half: Tensor, high_half: Tensor, low: tuple[float, ...]) -> Tensor:
    """The adjoint of filtering with both filters."""
    half = low_half.shape[1]
    extended = low_half.new_zeros(low_half.shape[0], 2 * half + len(low) - 2, low_half.shape[2])
    for tap, (a, b) in enumerate(zip(low, high_pass(low), strict=True)):
        target = extended[:, len(low) - 1 - tap :: 2][:, :half]
        target.add_(low_half, alpha=a).add_(high_half, alpha=b)
    return extended


def _swap(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous()


def _analyse(x: Tensor, low: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """One level: the approximation [M, height, width] and the three sub-bands [3, M, width, height]."""
    high = high_pass(low)
    along_rows = _extend(x, len(low))
    low_rows = _extend(_swap(_filter(along_rows, low)), len(low))
    high_rows = _extend(_swap(_filter(along_rows, high)), len(low))
    details = torch.stack((_filter(low_rows, high), _filter(high_rows, low), _filter(high_rows, high)))
    return _swap(_filter(low_rows, low)), details


def decompose(x: Tensor, low: tuple[float, ...]) -> Pyramid:
    """The transform of planes that are extended by reflection with their edges repeated, `levels` deep.

    Args:
        x: [M, H, W].
        low: decomposition low-pass filter.
    """
    details, sizes = [], []
    for _ in range(levels(x.shape[1], x.shape[2], len(low))):
        sizes.append((x.shape[1], x.shape[2]))
        x, bands = _analyse(x, low)
        details.append(bands)
    return Pyramid(x, details, sizes)


def reconstruct(pyramid: Pyramid, low: tuple[float, ...]) -> Tensor:
    """The inverse of `decompose`: [M, H, W]."""
    x, skip = pyramid.approximation, len(low) - 2
    for bands, (height, width) in zip(reversed(pyramid.levels), reversed(pyramid.sizes), strict=True):
        low_rows = _spread(_swap(x), bands[0], low)[:, skip : skip + width]
        high_rows = _spread(bands[1], bands[2], low)[:, skip : skip + width]
        x = _spread(_swap(low_rows), _swap(high_rows), low)[:, skip : skip + height]
    return x


def _padded(x: Tensor, taps: int) -> Tensor:
    """The adjoint of cutting the rows of a reconstruction out of what was spread."""
    half = (x.shape[1] + taps - 1) // 2
    return torch.nn.functional.pad(x, (0, 0, taps - 2, 2 * half - x.shape[1]))


def reconstruct_adjoint(x: Tensor, low: tuple[float, ...], depth: int) -> Pyramid:
    """The adjoint of `reconstruct`, a decomposition of planes extended by zeros, `depth` levels deep."""
    high, taps = high_pass(low), len(low)
    details, sizes = [], []
    for _ in range(depth):
        sizes.append((x.shape[1], x.shape[2]))
        along_rows = _padded(x, taps)
        low_rows = _padded(_swap(_filter(along_rows, low)), taps)
        high_rows = _padded(_swap(_filter(along_rows, high)), taps)
        bands = (_filter(low_rows, high), _filter(high_rows, low), _filter(high_rows, high))
        details.append(torch.stack(bands))
        x = _swap(_filter(low_rows, low))
    return Pyramid(x, details, sizes)


def decompose_adjoint(pyramid: Pyramid, low: tuple[float, ...]) -> Tensor:
    """The adjoint of `decompose`: [M, H, W]."""
    x, taps = pyramid.approximation, len(low)
    for bands, (height, width) in zip(reversed(pyramid.levels), reversed(pyramid.sizes), strict=True):
        low_rows = _fold(_spread(_swap(x), bands[0], low), width, taps)
        high_rows = _fold(_spread(bands[1], bands[2], low), width, taps)
        x = _fold(_spread(_swap(low_rows), _swap(high_rows), low), height, taps)
    return x


def _diagonal(planes: Tensor, low: tuple[float, ...]) -> Tensor:
    """The finest high-high sub-band alone: [M, width, height]."""
    high = high_pass(low)
    return _filter(_extend(_swap(_filter(_extend(planes, len(low)), high)), len(low)), high)


def middle_magnitudes(band: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper median of |nonzero coefficients|: [M, 2] values, NaN if there are none, and flat indices."""
    magnitude = band.abs().flatten(1)
    counted = torch.where(magnitude > 0, magnitude, torch.nan)
    lower = counted.nanmedian(1)
    value = lower.values[:, None]
    enough = (counted <= value).sum(1, keepdim=True) > (counted > 0).sum(1, keepdim=True) // 2
    upper = torch.where(counted > value, counted, torch.inf).min(1)
    index = torch.where(enough[:, 0], lower.indices, upper.indices)
    middle = torch.where(enough, value, upper.values[:, None])
    return torch.cat((value, middle), 1), torch.stack((lower.indices, index), 1)


def sigma_of(middle: Tensor, band: Tensor) -> Tensor:
    """σ from the two middle coefficients; NaN where every coefficient is 0."""
    empty = ~band.flatten(1).any(1)
    return torch.where(empty, torch.nan, middle.abs().mean(1) / _QUARTILE)


def _coefficients(planes: Tensor, places: Tensor, low: tuple[float, ...]) -> Tensor:
    """The diagonal coefficients [M, 2] at flat indices into [width, height], from the few pixels they depend on."""
    height, width = planes.shape[1:]
    taps = torch.arange(len(low), device=planes.device)
    filters = torch.tensor(high_pass(low), dtype=torch.float64, device=planes.device)
    halves = (height + len(low) - 1) // 2
    row = _reflect(2 * (places % halves)[..., None] + 1 - taps, height)
    column = _reflect(2 * (places // halves)[..., None] + 1 - taps, width)
    flat = (row[..., :, None] * width + column[..., None, :]).flatten(1)
    pixels = planes.flatten(1).gather(1, flat).double().reshape(*places.shape, len(low), len(low))
    return (pixels * (filters[:, None] * filters)).sum((-2, -1))


def _reflect(place: Tensor, length: int) -> Tensor:
    place = place % (2 * length)
    return torch.where(place < length, place, 2 * length - 1 - place)
