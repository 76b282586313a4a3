"""What a model source hands over: an ordinary module with its weights, and what it expects of its input."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cannonade.errors import InputError

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
        classes: the number that each logit's class has in its data set; None for 0, 1, 2, …
    """

    module: nn.Module
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    input_size: tuple[int, int] | None = None
    class_names: Sequence[str] | None = None
    classes: Sequence[int] | None = None


class _Kept(nn.Module):
    """A module of whose logits some are kept."""

    classes: Tensor

    def __init__(self, module: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("classes", torch.tensor(list(classes)))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits[:, self.classes]


def keep_classes(source: Pretrained, classes: Sequence[int]) -> Pretrained:
    """The model with the logits of some classes only, in their order: it answers which of these an image is."""
    places = list(classes)
    if source.classes is not None:
        place = {number: index for index, number in enumerate(source.classes)}
        if unknown := [number for number in classes if number not in place]:
            raise InputError(f"classes must be among the model's, {list(source.classes)}, got {unknown[0]}")
        places = [place[number] for number in classes]
    names = None if source.class_names is None else [source.class_names[place] for place in places]
    return replace(source, module=_Kept(source.module, places), class_names=names, classes=tuple(classes))


def imagenet_names(num_classes: int) -> Sequence[str] | None:
    """The 1,000 class names of ImageNet-1k; None for another number of classes, or where torchvision keeps none."""
    if num_classes != 1000:
        return None
    try:
        from torchvision.models._meta import _IMAGENET_CATEGORIES
    except ImportError:  # a private name: a torchvision without it costs the names, not the model
        return None
    return tuple(_IMAGENET_CATEGORIES)
