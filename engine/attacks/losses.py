"""Losses of logits against a class, one value per image; an attack on a label makes them large."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cannonade.errors import InputError

_TINY = 1e-12
_LEAST_CLASSES = {"margin": 2, "dlr": 3, "dlr_targeted": 4}


class Loss(Protocol):
    """(logits [N, K], classes [N], labels [N] or None) → [N].

    An untargeted attack makes the loss of the true label large, a targeted one makes the loss of the target small and gives
    the true labels besides, if it knows them; only the difference of logits ratios uses them.
    """

    def __call__(self, logits: Tensor, classes: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of each row."""


def cross_entropy(logits: Tensor, classes: Tensor, labels: Tensor | None = None) -> Tensor:
    """−log softmax(z)[class].

    Args:
        logits: z, [N, K].
        classes: [N] int64.
        labels: not used.

    Returns:
        [N].
    """
    return functional.cross_entropy(logits, classes, reduction="none")


def margin(logits: Tensor, classes: Tensor, labels: Tensor | None = None) -> Tensor:
    """max_{i ≠ class} z_i − z_class: positive where the class is not predicted (Carlini & Wagner 2017, f₆ without floor).

    Args:
        logits: z, [N, K], K ≥ 2.
        classes: [N] int64.
        labels: not used.

    Returns:
        [N].

    Raises:
        InputError: there are fewer than two classes.
    """
    check_loss("margin", logits.shape[1], targeted=False)
    values, places = logits.topk(2, dim=1)
    rival = torch.where(places[:, 0] == classes, values[:, 1], values[:, 0])
    return rival - _own(logits, classes)


def dlr(logits: Tensor, classes: Tensor, labels: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: margin / (z_π1 − z_π3), with z_π1 ≥ z_π2 ≥ … (Croce & Hein, ICML 2020, equation 6).

    It is invariant to shift and scale of the logits.

    Args:
        logits: z, [N, K], K ≥ 3.
        classes: [N] int64.
        labels: [N] int64 where the classes are targets: it is then `dlr_targeted`, since this ratio is constant, and its
            gradient zero, while a target is in third place.

    Returns:
        [N], in [−1, 1] while the class is among the first three.

    Raises:
        InputError: there are fewer than three classes.
    """
    if labels is not None:
        return dlr_targeted(logits, classes, labels)
    check_loss("dlr", logits.shape[1], targeted=False)
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, classes) / (first - third + _TINY)


def dlr_targeted(logits: Tensor, classes: Tensor, labels: Tensor | None = None) -> Tensor:
    """(z_label − z_target) / (z_π1 − (z_π3 + z_π4)/2), which a targeted attack makes small (Croce & Hein 2020, equation 7).

    Args:
        logits: z, [N, K], K ≥ 4.
        classes: the targets, [N] int64.
        labels: the true labels, [N] int64.

    Returns:
        [N].

    Raises:
        InputError: there are fewer than four classes, or no labels.
    """
    check_loss("dlr_targeted", logits.shape[1], targeted=labels is not None)
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    own = _own(logits, classes if labels is None else labels)
    return (own - _own(logits, classes)) / (first - 0.5 * (third + fourth) + _TINY)


def _own(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
}


def check_loss(name: str, classes: int, *, targeted: bool) -> None:
    """Raise InputError unless a loss fits so many classes, and the goal.

    Args:
        name: one of `LOSSES`.
        classes: K.
        targeted: whether every image has a target and a true label.
    """
    if name == "dlr" and targeted:
        name = "dlr_targeted"
    if name not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    if classes < _LEAST_CLASSES.get(name, 1):
        raise InputError(
            f"{name} needs at least {_LEAST_CLASSES[name]} classes, but the classifier has {classes}; use cross_entropy"
        )
    if name == "dlr_targeted" and not targeted:
        raise InputError(
            "dlr_targeted must be given a target and a true label for every image, as in Targeted(targets, labels); "
            "use dlr where there are no targets"
        )
