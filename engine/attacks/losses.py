"""Losses of logits against a class, one value per image; an attack on a label makes them large."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """−log softmax(logits)[class].

    Args:
        logits: [N, K].
        classes: [N] int64.

    Returns:
        [N].
    """
    return functional.cross_entropy(logits, classes, reduction="none")


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}
