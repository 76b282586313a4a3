"""What benches of speed run on: networks with random weights, since speed does not hang on what was learned, and photos."""

import torch
from torch import Tensor

from cannonade.data.sources import open_source
from cannonade.errors import InputError
from cannonade.models import untrained
from cannonade.models.pretrained import Pretrained


def random_network(model: str, classes: int) -> Pretrained:
    """A model by name with random weights, the same in every call; the global generator is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return untrained(model, classes)


def photos(data: str, batch: int, side: int) -> Tensor:
    """The first images of a source, again from the start where it has fewer: [batch, 3, side, side] in [0, 1].

    Raises:
        InputError: batch or side is below 1, or there is no such source.
    """
    for name, value in (("batch", batch), ("side", side)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    source = open_source(data).limited(batch)
    images = source.load(source.items, (side, side))
    return images[torch.arange(batch) % len(images)]
