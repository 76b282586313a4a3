"""What decides a training beside its model, its data and its defense."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from cannonade.data.views import Augmentation
from cannonade.errors import InputError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW with a cosine schedule; the defaults are those of the paper's authors (section 6.3).

    Attributes:
        epochs: passes over the data.
        batch: images of one step of the optimiser, over all processes and passes.
        accumulate: passes of one step; each has batch / (accumulate · processes) images.
        learning_rate: at the top of the schedule.
        weight_decay: AdamW's.
        warmup: steps in which the learning rate rises to the top.
        precision: of the network: float32, bfloat16 or float16. Defenses always compute in float32.
        channels_last: keep weights and activations in that layout, but for networks whose gradients it breaks (`lay_out`).
        compile: torch.compile the network.
        average: decay a step of the mean over weights that is then evaluated and saved; 0 for none.
        freeze: train the last layer only; the rest stays in evaluation mode.
        augmentation: the part of each image that is seen, drawn by (image, epoch); None for the centre.
        votes: n of the majority vote after an epoch.
        validate_every: epochs from one validation to the next; the last epoch always has one.
        seed: of order, augmentation, draws, dropout and new weights.
    """

    epochs: int = 1
    batch: int = 256
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 0
    precision: str = "float32"
    channels_last: bool = True
    compile: bool = False
    average: float = 0.0
    freeze: bool = False
    augmentation: Augmentation | None = None
    votes: int = 10
    validate_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "votes", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if not self.weight_decay >= 0 or self.warmup < 0:
            raise InputError(f"weight_decay and warmup must be at least 0, got {self.weight_decay} and {self.warmup}")
        if not 0 <= self.average < 1:
            raise InputError(f"the mean over weights must have a decay in [0, 1), got {self.average}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    def rows(self, world: int) -> int:
        """Images of one pass of one process.

        Raises:
            InputError: the batch cannot be divided so.
        """
        shares = self.accumulate * world
        if self.batch % shares:
            raise InputError(f"batch must be a multiple of passes times processes, {shares}, got {self.batch}")
        return self.batch // shares

    @property
    def autocast(self) -> torch.dtype | None:
        """What the network is cast to."""
        return PRECISIONS[self.precision]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
