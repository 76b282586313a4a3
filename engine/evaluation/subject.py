"""What is looked at without an attack: a defended classifier and images, from the words of the command line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cannonade.chunking import Chunk
from cannonade.data.sources import Item, Source, open_source
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.errors import InputError
from cannonade.models import load_model


@dataclass(frozen=True)
class Subject:
    """A classifier behind its defense, and the images that it is asked about."""

    defended: DefendedClassifier
    source: Source
    device: torch.device

    def batches(self, size: int) -> Iterator[tuple[list[Item], Tensor, Tensor]]:
        """Items, their images [N, 3, H, W] and their ids [N], at most `size` at a time."""
        if size < 1:
            raise InputError(f"batch must be at least 1, got {size}")
        items = self.source.items
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            images = self.source.load(batch, self.defended.classifier.input_size).to(self.device)
            yield batch, images, torch.tensor([item.id for item in batch], device=self.device)


def open_subject(
    *,
    model: str,
    data: str,
    defense: str,
    weights: Path | None,
    limit: int | None,
    seed: int,
    device: str,
    restrict: bool = False,
    autocast: torch.dtype | None = None,
) -> Subject:
    """Build the parts from their names; the cheap ones first, so that a slip of the pen is answered at once.

    Args:
        model, weights, data, defense: as on the command line.
        limit: at most so many images.
        seed: of every draw.
        device: name of one, or auto.
        restrict: keep only the logits of the classes that occur in the data.
        autocast: precision of the classifier.

    Raises:
        InputError: a name, an argument, a file or a device that cannot be used.
    """
    part = build_defense(defense)
    place = find_device(device)
    source = open_source(data)
    classes = sorted({item.label for item in source.items}) if restrict else None
    exact_arithmetic()
    classifier = load_model(model, weights=weights, device=place, classes=classes, autocast=autocast)
    if classifier.class_numbers is not None:
        source = source.numbered(classifier.class_numbers)
    source = source.limited(limit)
    source.check_labels(classifier.num_classes)
    return Subject(DefendedClassifier(classifier, part, seed=seed), source, place)


def parse_chunk(text: str) -> Chunk:
    """Rows of one pass: a number, or auto."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"chunk must be at least 1, or 'auto', got {text!r}")
    return int(text)


def find_device(name: str) -> torch.device:
    """A device that this machine has, by name; auto takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device must be one that this machine has, got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return device


def exact_arithmetic() -> None:
    """Float32 as IEEE has it and the same kernels every time: no TF32, no autotuned and no nondeterministic convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
