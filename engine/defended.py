"""A defended classifier: a random transform, then the classifier, which may hold a defense itself, as an ordinary module."""

from typing import Literal

import torch
from torch import Tensor, nn

from cannonade.classifier import Classifier
from cannonade.defenses import Defense
from cannonade.draws import Draws, Phase, check_seed
from cannonade.errors import InputError

_WORD = 1 << 32


class DefendedClassifier(nn.Module):
    """f_θ(x) = f(t_θ(x)), with a fresh θ for every row (paper, section 3); a defense of the model makes θ part of f instead.

    `logits(images, draws)` is what the engine calls: a pure function, independent of how rows are batched. `forward(images)`
    is for any other framework: it makes its own draws.

    Args:
        classifier: a `Classifier`, or any module that maps [0, 1] images to logits, which is then wrapped in one.
        defense: the transform drawn before every prediction, or what is done inside the classifier at each.
        seed: of all draws, in [0, 2^64).
        randomness: what `forward` draws: "fresh", another θ for every row of every call; "fixed", row i always gets the same
            θ; "common", one θ for all rows of a call and a new one each call.
    """

    def __init__(
        self,
        classifier: nn.Module,
        defense: Defense,
        *,
        seed: int = 0,
        randomness: Literal["fresh", "fixed", "common"] = "fresh",
    ) -> None:
        super().__init__()
        check_seed(seed)
        if randomness not in ("fresh", "fixed", "common"):
            raise InputError(f"randomness must be 'fresh', 'fixed' or 'common', got {randomness!r}")
        self.classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        self.defense = defense
        self.seed = seed
        self.randomness = randomness
        self._asked = 0
        self.eval()

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return self.classifier.num_classes

    def logits(self, images: Tensor, draws: Draws) -> Tensor:
        """Logits of one prediction per row.

        Args:
            images: [N, 3, H, W] in [0, 1].
            draws: N streams, one per row, best on the host: then nothing waits for the device.

        Returns:
            [N, K].

        Raises:
            InputError: the classifier returned another shape.
        """
        logits = self.defense.inside(self.classifier, self.defense(images, draws), draws)
        if logits.dim() != 2 or len(logits) != len(images):
            raise InputError(
                f"a classifier must return one row of logits per image, [{len(images)}, K], got {list(logits.shape)}"
            )
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits of one prediction per row, with draws of this module's own: [N, 3, H, W] → [N, K]."""
        return self.logits(images, self._next(len(images)))

    @torch.compiler.disable
    def _next(self, rows: int) -> Draws:
        if getattr(self, "_is_replica", False):
            raise InputError(
                "DataParallel is not supported: a replica's draw counter never comes back, so every call would repeat its "
                "draws; use DistributedDataParallel"
            )
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if self.randomness == "fixed":
            queries = torch.arange(rows)
        elif self.randomness == "common":
            queries = torch.full((rows,), self._asked)
            self._asked += 1
        else:
            queries = torch.arange(self._asked, self._asked + rows)
            self._asked += rows
        ids = torch.full((rows,), rank)
        return Draws(seed=self.seed, phase=Phase.FORWARD, images=ids, queries=queries % _WORD)

    def train(self, mode: bool = True) -> "DefendedClassifier":
        """Stay in evaluation mode: an attacked classifier does not change."""
        return super().train(False)

    def extra_repr(self) -> str:
        """The defense and how `forward` draws."""
        return f"defense={self.defense}, seed={self.seed}, randomness={self.randomness!r}"
