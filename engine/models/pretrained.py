"""What a model source hands over: an ordinary module with its weights, and what it expects of its input."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A module as its authors published it: trainable, unfolded, and without normalisation inside.

    Attributes:
        module: maps normalised images [N, 3, H, W] to logits.
        mean: per channel, in units of [0, 1].
        std: per channel.
        input_size: (height, width) it was trained for, or None.
        class_names: one per logit, or None where they are not known.
    """

    module: nn.Module
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    input_size: tuple[int, int] | None = None
    class_names: Sequence[str] | None = None


def imagenet_names(num_classes: int) -> Sequence[str] | None:
    """The 1,000 class names of ImageNet-1k; None for another number of classes, or where torchvision keeps none."""
    if num_classes != 1000:
        return None
    try:
        from torchvision.models._meta import _IMAGENET_CATEGORIES
    except ImportError:  # a private name: a torchvision without it costs the names, not the model
        return None
    return tuple(_IMAGENET_CATEGORIES)
