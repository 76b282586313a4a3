"""Ranges in pixels that were written for one image size, taken over to another."""

from torch import Tensor

from cannonade.errors import InputError


def scaled(value: int, side: int, reference_size: int | None, least: int = 1) -> int:
    """`value` pixels of an image of side `reference_size`, in pixels of one of side `side`.

    Args:
        value: length or place at the reference size.
        side: side of the image at hand.
        reference_size: the side that `value` was written for; None takes `value` as it stands.
        least: smallest result of scaling.

    Returns:
        value · side / reference_size, rounded half up.
    """
    if reference_size is None:
        return value
    return max(least, (2 * value * side + reference_size) // (2 * reference_size))


def scaled_draws(values: Tensor, side: int, reference_size: int | None) -> Tensor:
    """`scaled` of every element of an int64 tensor."""
    if reference_size is None:
        return values
    return ((2 * side * values + reference_size) // (2 * reference_size)).clamp_(min=1)


def check_range(where: str, low: float, high: float, least: float, most: float = float("inf")) -> None:
    """Raise unless least ≤ low ≤ high ≤ most.

    Args:
        where: transform and field, for the message.

    Raises:
        InputError: the range is empty or leaves its bounds.
    """
    if not least <= low <= high <= most:
        bounds = f"at least {least}" if most == float("inf") else f"in [{least}, {most}]"
        raise InputError(f"{where} must be (low, high) with low ≤ high, both {bounds}, got ({low}, {high})")


def check_probability(where: str, p: float) -> None:
    """Raise unless p is a probability.

    Raises:
        InputError: it is not in [0, 1].
    """
    if not 0 <= p <= 1:
        raise InputError(f"{where} is a probability and must be in [0, 1], got {p}")


def check_reference(where: str, reference_size: int | None) -> None:
    """Raise unless the reference size is None or positive.

    Raises:
        InputError: it is zero or negative.
    """
    if reference_size is not None and reference_size < 1:
        raise InputError(
            f"{where}: reference_size must be at least 1, or None for ranges as they stand, got {reference_size}"
        )
