"""A defended classifier: a random transform, then the classifier, which may hold a defense itself, as an ordinary module."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cannonade.checks import check_layout, check_scale
from cannonade.chunking import Chunk, bytes_per_row, kept_rows_fit, rows_of_a_pass, with_retreat
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
            of N·m rows. `logits`, and so attacks and votes of ours, take no notice of it.
        average: what `forward` averages: "logits", or "probs", whose logarithm it returns.
        chunk: rows of one pass of `forward`, halved when memory runs out; None for all at once, "auto" for those that a
            measured probe finds to fit the memory, and to be quick. It changes no draws, and the result by rounding alone.
        checkpoint: with more rows than one chunk, keep only each pass's input for the gradient and compute the pass again in
            backward, by the same draws: the memory of one chunk, for about half as much time again. This is also done where
            memory ran out, and with "auto" where the rows together do not fit it.

    Raises:
        InputError: seed, randomness, samples, average or chunk are out of range, or there is a checkpoint and no chunk.

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
        chunk: Chunk | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self._draws = OwnDraws(seed, randomness)
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        if average not in ("logits", "probs"):
            raise InputError(f"average must be 'logits' or 'probs', the output of one prediction, got {average!r}")
        if chunk is not None and chunk != "auto" and chunk < 1:
            raise InputError(f"chunk must be at least 1, 'auto' or None, got {chunk}")
        if checkpoint and chunk is None:
            raise InputError(
                "checkpoint needs a chunk, a number of rows or 'auto', got None: every pass would be all rows"
            )
        self.classifier = classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        self.defense = defense
        self.samples = samples
        self.average = average
        self.chunk = chunk
        self.checkpoint = checkpoint
        self._row_bytes: dict[tuple[torch.Size, torch.dtype, torch.device], int] = {}
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
        rows = images if self.samples == 1 else images.repeat_interleave(self.samples, dim=0)
        logits = self.logits(rows, draws) if self.chunk is None else self._in_chunks(rows, draws)
        if self.samples == 1:
            return logits
        each: Tensor = logits.unflatten(0, (len(images), self.samples))
        if self.average == "logits":
            return each.mean(1)
        return each.log_softmax(2).logsumexp(1) - math.log(self.samples)

    def _in_chunks(self, rows: Tensor, draws: Draws) -> Tensor:
        chunk, again = self._chunk_of(rows)

        def passes(size: int) -> Tensor:
            if len(rows) <= size:
                return self.logits(rows, draws)
            parts = [slice(start, start + size) for start in range(0, len(rows), size)]
            if not again and size == chunk:
                return torch.cat([self.logits(rows[part], draws[part]) for part in parts])
            return torch.cat([_again_in_backward(self.logits, rows[part], draws[part]) for part in parts])

        return with_retreat(passes, chunk)[0]

    @torch.compiler.disable
    def _chunk_of(self, rows: Tensor) -> tuple[int, bool]:
        """Rows of one pass, and whether backward computes it again; images of one shape are probed once."""
        if not len(rows):
            return 1, False
        if isinstance(self.chunk, int):
            return min(self.chunk, len(rows)), self.checkpoint
        kind = rows.shape[1:], rows.dtype, rows.device
        if kind not in self._row_bytes:
            with torch.inference_mode(False):  # where nothing would be kept, and nothing measured
                self._row_bytes[kind] = bytes_per_row(self, rows[:1].clone())
        row = self._row_bytes[kind]
        chunk = min(rows_of_a_pass(row, rows.device), len(rows))
        return chunk, self.checkpoint or not kept_rows_fit(len(rows), chunk, row, rows.device)

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
        if self.samples > 1:
            text = f"{text}, samples={self.samples}, average={self.average!r}"
        return text if self.chunk is None else f"{text}, chunk={self.chunk!r}, checkpoint={self.checkpoint}"


def _again_in_backward(logits: Callable[[Tensor, Draws], Tensor], images: Tensor, draws: Draws) -> Tensor:
    """A pass that keeps its input alone; every random number is in the draws, so that no generator's state has to be kept."""
    return checkpoint(logits, images, draws, use_reentrant=False, preserve_rng_state=False)
