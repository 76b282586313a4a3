"""What a training begins with: a network with as many logits as the data has classes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models import load_pretrained, untrained
from cannonade.models.card import Card
from cannonade.models.head import find_head, replace_head
from cannonade.models.pretrained import Pretrained


@dataclass(frozen=True)
class Start:
    """A network to train.

    Attributes:
        module: with weights that take gradients.
        card: what will be written of it into its weight files.
        continued: whether it knows these classes already: its last layer was kept.
    """

    module: nn.Module
    card: Card
    continued: bool


def starting_point(
    model: str,
    *,
    weights: Path | None,
    scratch: bool,
    class_names: Mapping[int, str],
    size: tuple[int, int] | None,
    defense: str,
    seed: int,
) -> Start:
    """Build the network, with a new last layer where the weights were trained for other classes.

    Args:
        model: name of one.
        weights: a file; None for those the model is published with.
        scratch: random weights instead.
        class_names: of the data's class numbers; logits are in the order of the numbers.
        size: (H, W) of the images; None for the model's own.
        defense: for the record.
        seed: of random weights.

    Raises:
        InputError: a name or file that cannot be used, or a module that is not to be trained.
    """
    if scratch and weights is not None:
        raise InputError(f"a training starts from weights or from scratch, got both, {weights} and --scratch")
    classes = sorted(class_names)
    with seeded(seed):
        source = untrained(model, len(classes)) if scratch else load_pretrained(model, weights=weights)
        if isinstance(source.module, Classifier):
            raise InputError(f"{model} makes a Classifier, which is frozen: return the module itself to train it")
        continued = not scratch and _knows(source, classes)
        fits = scratch and find_head(source.module)[1].out_features == len(classes)
        module = source.module if continued or fits else replace_head(source.module, len(classes))
    size = size or source.input_size
    if size is None:
        raise InputError(f"{model} has no input size of its own: give --size")
    card = Card(
        model=model, classes=tuple(classes), mean=tuple(source.mean), std=tuple(source.std), input_size=size,
        class_names=[class_names[number] for number in classes], defense=defense,
    )  # fmt: skip
    return Start(module.requires_grad_(True), card, continued)


def _knows(source: Pretrained, classes: Sequence[int]) -> bool:
    """Whether each logit is already that of the class in its place."""
    known = source.classes
    if known is None:
        known = range(find_head(source.module)[1].out_features)
    return list(known) == list(classes)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """PyTorch's global generators set for a while, and then as they were: for layers that draw from nothing else."""
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
