"""A defended classifier: a random transform, then the classifier, which may hold a defense itself, as an ordinary module."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cannonade.checks import check_layout, check_scale
from cannonade.classifier import Classifier
from cannonade.defenses import Defense
from cannonade.draws import Draws, Phase, check_seed
from cannonade.errors import InputError

_WORD = 1 << 32

Randomness = Literal["fresh", "fixed", "common"]


class OwnDraws:
    """Draws for callers who bring none: numbered by what was asked before, and by the rank of the process.

    Copies, by `copy` or `pickle`, go on from the same place.

    Args:
        seed: of all draws, in [0, 2^64).
        randomness: "fresh", other draws for every row of every call; "fixed", row i always gets the same; "common", the same
            for all rows of a call and others at the next.
    """

    def __init__(self, seed: int, randomness: Randomness = "fresh") -> None:
        check_seed(seed)
        if randomness not in ("fresh", "fixed", "common"):
            raise InputError(f"randomness must be 'fresh', 'fixed' or 'common', got {randomness!r}")
        self.seed = seed
        self.randomness = randomness
        self.asked = 0

    @torch.compiler.disable
    def next(self, rows: int, samples: int = 1) -> Draws:
        """Streams of the next call, `samples` of each row, row by row: rows·samples of them, on the host."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        queries = torch.arange(samples).repeat(rows) if self.randomness == "common" else torch.arange(rows * samples)
        if self.randomness != "fixed":
            queries += self.asked
            self.asked += samples if self.randomness == "common" else rows * samples
        ids = torch.full_like(queries, rank)
        return Draws(seed=self.seed, phase=Phase.FORWARD, images=ids, queries=queries % _WORD)


class DefendedClassifier(nn.Module):
    """f_θ(x) = f(t_θ(x)), with a fresh θ for every row (paper, section 3); a defense of the model makes θ part of f instead.

    `logits(images, draws)` is what the engine calls: a pure function, independent of how rows are batched. `forward(images)`
    is for any other framework: it makes its own draws. How many it has made is no part of `state_dict`, which holds weights
    only, but of copies and pickles.

    In processes of their own, each with its copy, ranks of `torch.distributed` draw differently. `DataParallel` is refused:
    what its replicas count never comes back, so that every call would repeat its draws.

    Args:
        classifier: a `Classifier`, or any module that maps [0, 1] images to logits, which is then wrapped in one.
        defense: the transform drawn before every prediction, or what is done inside the classifier at each.
        seed: of all draws, in [0, 2^64).
        randomness: what `forward` draws: "fresh", another θ for every row of every call; "fixed", row i always gets the same
            θ; "common", one θ for all rows of a call and a new one each call.
        samples: m, predictions that `forward` averages for each row, so that an attack without EOT has one. They are one batch
            of N·m rows, and take its memory: nothing is cut into chunks. `logits`, and so attacks and votes of ours, take no
            notice of it.
        average: what `forward` averages: "logits", or "probs", whose logarithm it returns.

    Raises:
        InputError: seed, randomness, samples or average are out of range.

    Example:
        >>> from cannonade import build_defense
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        >>> defended = DefendedClassifier(net, build_defense("rotation(degrees=90)"))
        >>> images = torch.linspace(0, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
        >>> torch.equal(defended(images), defended(images))
        False
    """

    def __init__(
        self,
        classifier: nn.Module,
        defense: Defense,
        *,
        seed: int = 0,
        randomness: Randomness = "fresh",
        samples: int = 1,
        average: Literal["logits", "probs"] = "logits",
    ) -> None:
        super().__init__()
        self._draws = OwnDraws(seed, randomness)
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        if average not in ("logits", "probs"):
            raise InputError(f"average must be 'logits' or 'probs', the output of one prediction, got {average!r}")
        self.classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        self.defense = defense
        self.samples = samples
        self.average = average
        self._looked = False
        self.eval()

    @property
    def seed(self) -> int:
        """Of all draws."""
        return self._draws.seed

    @property
    def randomness(self) -> Randomness:
        """What `forward` draws."""
        return self._draws.randomness

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
        """Logits for each row, with draws of this module's own: [N, 3, H, W] → [N, K].

        Raises:
            InputError: images with their channels last, or, at the first call, in 0 … 255; DataParallel.
        """
        self._look(images)
        draws = self._draws.next(len(images), self.samples)
        if self.samples == 1:
            return self.logits(images, draws)
        logits = self.logits(images.repeat_interleave(self.samples, dim=0), draws)
        each: Tensor = logits.unflatten(0, (len(images), self.samples))
        if self.average == "logits":
            return each.mean(1)
        return each.log_softmax(2).logsumexp(1) - math.log(self.samples)

    @torch.compiler.disable
    def _look(self, images: Tensor) -> None:
        """Refuse what other frameworks may hand over by mistake; values are read once, since that waits for the device."""
        if getattr(self, "_is_replica", False):
            raise InputError(
                "DataParallel is not supported: a replica's draw counter never comes back, so every call would repeat its "
                "draws; use one process for each device, with torchrun"
            )
        check_layout(images)
        if not self._looked and len(images) and not images.is_meta:
            check_scale(images)
            self._looked = True

    def train(self, mode: bool = True) -> "DefendedClassifier":
        """Stay in evaluation mode: an attacked classifier does not change."""
        return super().train(False)

    def extra_repr(self) -> str:
        """The defense and how `forward` draws."""
        text = f"defense={self.defense}, seed={self.seed}, randomness={self.randomness!r}"
        return text if self.samples == 1 else f"{text}, samples={self.samples}, average={self.average!r}"
