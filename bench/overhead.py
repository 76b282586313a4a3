"""What a defense, and everything around it, adds to the bare model; and how much less that is than other ways to attack it.

Speed does not depend on what a network has learned, so weights are random. "Bare" is the same classifier at its best, frozen,
folded, channels_last, without any defense: its own gradient is the floor that nothing can pass.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import LOSSES
from cannonade.attacks.pgd import PGD
from cannonade.bench.authors import Loop, check_same, steps_of, through_oracles
from cannonade.bench.peers import Budget, torchattacks_eotpgd
from cannonade.bench.subjects import random_network
from cannonade.bench.timing import Timing, interleaved
from cannonade.bench.transforms import gradient_of, successive_draws
from cannonade.chunking import resolve_chunk
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_transform
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import Transform
from cannonade.transforms.identity import Identity
from cannonade.voting import majority_vote

SAMPLES, STEPS, VOTES = 16, 1, 8
PARTS = "program alone with gradient, beside Σ p·ms of its parts"


@dataclass(frozen=True)
class Row:
    """Two sides of one comparison.

    Attributes:
        what: was done.
        defense: its call.
        ours, theirs: milliseconds of one gradient or prediction, medians over the rounds; in `PARTS` of a program alone, and
            Σ p·ms of its transforms.
        ours_quartiles, theirs_quartiles: the first and the third.
        ratio: ours / theirs, below 1 where ours is faster; the median of the rounds' ratios.
        ratio_interval: see `Ratio`.
    """

    what: str
    defense: str
    ours: float
    ours_quartiles: tuple[float, float]
    theirs: float
    theirs_quartiles: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]

    @classmethod
    def of(cls, what: str, defense: str, ours: Timing, theirs: Timing, count: int) -> "Row":
        """From the seconds of `count` gradients or predictions on each side."""
        (mine, own), (other, foreign) = (
            (1000 * timing.median / count, (1000 * timing.quartiles[0] / count, 1000 * timing.quartiles[1] / count))
            for timing in (ours, theirs)
        )
        ratio = ours.over(theirs)
        return cls(what, defense, mine, own, other, foreign, ratio.median, ratio.interval)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Sides:
    """One network as we attack it and as others do.

    Args:
        model: its name.
        images: [N, 3, H, W] in [0, 1].
        rounds: how often each side is timed.

    Raises:
        InputError: the two do not compute the same.
    """

    def __init__(self, model: str, images: Tensor, rounds: int) -> None:
        source = random_network(model, 1000)
        settings: dict[str, Any] = {"mean": source.mean, "std": source.std, "input_size": tuple(images.shape[2:])}
        self.bare = Classifier(source.module, **settings)
        self.plain = Classifier(source.module, fold_batch_norm=False, channels_last=False, **settings)
        self.loop = Loop(source)
        self.images, self.rounds = images, rounds
        with torch.no_grad():
            ours, theirs, own = self.bare(images), self.plain(images), torch.cat([*map(self.loop.logits, images)])
        for other in (theirs, own):
            check_same(ours, other)
        self.labels = ours.argmax(1)

    def compare(self, defense: str) -> Iterator[Row]:
        """Against the bare model: a gradient (m = 1 and m = 16) and a prediction of a vote."""
        for samples in (1, SAMPLES):
            count = len(self.images) * samples
            ours, bare = self.defended_gradient(defense, samples), self.bare_gradient(samples)
            yield self._row(f"gradient, m = {samples}", defense, ours, bare, count)
        count = len(self.images) * VOTES
        yield self._row("prediction of a vote", defense, self.vote(defense), self.forwards(), count)

    def beside_parts(self, defense: str) -> Row:
        """A program of transforms alone, with gradient, against the sum of its transforms: their probability times their cost.

        Each of them is timed on the whole batch, in the same rounds.

        Raises:
            InputError: the defense is no program.
        """
        program = build_transform(defense)
        if not isinstance(program, BaRT):
            raise InputError(f"a program must be bart or bart_gao, got {defense}")
        parts: Iterable[Transform] = program.members
        if program.backward == "identity":
            parts = [replace(member, backward="identity") for member in parts]
        cases = {str(place): gradient_of(part, self.images) for place, part in enumerate(parts)}
        timed = interleaved({"program": gradient_of(program, self.images), **cases}, self.rounds)
        whole, *each = (timing.seconds for timing in timed.values())
        sums = (
            sum(share * seconds for share, seconds in zip(program.probabilities, own, strict=True))
            for own in zip(*each, strict=True)
        )
        return Row.of(PARTS, defense, Timing(whole), Timing(tuple(sums)), len(self.images))

    def rows_of_a_pass(self, samples: int) -> int:
        """Of the rows of m draws those that a pass takes, on both sides: as an attack would choose them."""
        return resolve_chunk("auto", DefendedClassifier(self.bare, Identity()), self.images, samples * len(self.images))

    def defended_gradient(self, defense: str, samples: int) -> Callable[[], object]:
        """EOT of m draws; each call is another step of an attack."""
        defended = DefendedClassifier(self.bare, build_transform(defense))
        eot = EOT(samples=samples, chunk=self.rows_of_a_pass(samples))
        goal, loss = Untargeted(self.labels), LOSSES["cross_entropy"]
        draws = successive_draws(len(self.images))
        return lambda: eot.estimate(defended, self.images, goal, loss, next(draws))

    def bare_gradient(self, samples: int) -> Callable[[], object]:
        """As many gradients of the bare model."""
        rows = self.rows_of_a_pass(samples)
        parts = list(
            zip(*(self._repeated(values, samples).split(rows) for values in (self.images, self.labels)), strict=True)
        )

        def run() -> None:
            for images, labels in parts:
                leaf = images.clone().requires_grad_()
                torch.autograd.grad(cross_entropy(self.bare(leaf), labels, reduction="sum"), leaf)

        return run

    def vote(self, defense: str) -> Callable[[], object]:
        """A majority vote."""
        defended, rows = DefendedClassifier(self.bare, build_transform(defense)), self.rows_of_a_pass(VOTES)
        return lambda: majority_vote(defended, self.images, VOTES, chunk=rows)

    def forwards(self) -> Callable[[], object]:
        """As many predictions of the bare model as a vote has."""
        parts = self._repeated(self.images, VOTES).split(self.rows_of_a_pass(VOTES))

        @torch.no_grad()
        def run() -> None:
            for images in parts:
                self.bare(images)

        return run

    @staticmethod
    def _repeated(values: Tensor, times: int) -> Tensor:
        return values.repeat(times, *[1] * (values.dim() - 1))

    def against_torchattacks(self, defense: str) -> Row:
        """PGD with m = 16 against torchattacks' EOTPGD, which loops over the plain network behind the same defense."""
        part, budget = build_transform(defense), Budget(eps=8 / 255, steps=STEPS, step_size=2 / 255, samples=SAMPLES)
        ours, theirs = DefendedClassifier(self.bare, part), DefendedClassifier(self.plain, part)
        gradient = EOT(samples=SAMPLES, chunk=len(self.images) * SAMPLES if self.images.shape[2] <= 64 else "auto")
        attack = PGD(eps=budget.eps, steps=STEPS, step_size=budget.step_size, gradient=gradient)
        return self._row(
            f"gradient, torchattacks EOTPGD, m = {SAMPLES}",
            defense,
            lambda: attack(ours, self.images, self.labels),
            lambda: torchattacks_eotpgd(theirs, self.images, self.labels, budget),
            len(self.images) * SAMPLES * STEPS,
        )

    def against_authors(self, defense: str) -> Iterator[Row]:
        """A gradient and a prediction in the manner of the paper's authors, as it is described there: image by image with
        scikit-image, the identity for the defense's gradient, and weights that take gradients nobody needs."""
        part = build_transform(defense)
        defended, ids = DefendedClassifier(self.bare, part), torch.arange(len(self.images))
        draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
        steps = steps_of(part, draws, self.images)
        eot, goal = EOT(chunk=len(ids)), Untargeted(self.labels)

        def gradient() -> None:
            for image, label, own in zip(self.images, self.labels, steps, strict=True):
                leaf = through_oracles(image, own).requires_grad_()
                cross_entropy(self.loop.logits(leaf), label[None]).backward()
            self.loop.network.zero_grad()

        @torch.no_grad()
        def predict() -> None:
            for image, own in zip(self.images, steps, strict=True):
                self.loop.logits(through_oracles(image, own))

        loss = LOSSES["cross_entropy"]
        yield self._row(
            "gradient, authors' manner",
            defense,
            lambda: eot.estimate(defended, self.images, goal, loss, draws),
            gradient,
            len(ids),
        )
        yield self._row(
            "prediction, authors' manner",
            defense,
            lambda: majority_vote(defended, self.images, 1, ids=ids, chunk=len(ids)),
            predict,
            len(ids),
        )

    def _row(
        self, what: str, defense: str, ours: Callable[[], object], theirs: Callable[[], object], count: int
    ) -> Row:
        timed = interleaved({"ours": ours, "theirs": theirs}, self.rounds)
        return Row.of(what, defense, timed["ours"], timed["theirs"], count)
