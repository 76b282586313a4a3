"""Attacks that only ask: propose a point, ask the classifier about it, keep the better one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.attacks.attack import AttackResult, check_ball
from cannonade.attacks.goals import Goal, as_goal
from cannonade.attacks.losses import LOSSES
from cannonade.attacks.queries import READINGS, Reading, ask
from cannonade.checks import check_images
from cannonade.chunking import Chunk, resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RandomSearch(ABC):
    """A random search with a budget of predictions, all of which it spends.

    Every answer is of fresh draws of the attack phase, since an attacker who only asks cannot choose them.

    Attributes:
        eps: radius of the ball in units of [0, 1]. At 0 the images are returned as they are.
        norm: "linf" or "l2".
        queries: the budget, predictions per image.
        samples: m, predictions of a point.
        reading: "mean", the mean loss of the m predictions; "vote", the lead among their labels, where ties move on.
        loss: of the scores.
        requery: ask again about the best point whenever it is compared, so that luck does not make it unbeatable; this takes
            half of the budget, in vain where the classifier is deterministic.
        chunk: rows of one pass, or "auto".
    """

    eps: float = 8 / 255
    norm: str = "linf"
    queries: int = 1000
    samples: int = 1
    reading: Reading = "mean"
    loss: str = "margin"
    requery: bool = False
    chunk: Chunk = "auto"

    def __post_init__(self) -> None:
        check_ball(self.norm, self.eps)
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.reading not in READINGS:
            raise InputError(f"reading must be one of {', '.join(READINGS)}, got {self.reading!r}")
        if not 1 <= self.samples <= self.queries:
            raise InputError(
                f"samples must be at least 1 and the budget queries at least samples, got {self.samples} and {self.queries}"
            )

    @property
    def points(self) -> int:
        """How many points the budget allows to ask about."""
        asked = self.queries // self.samples
        return 1 + (asked - 1) // 2 if self.requery else asked

    @abstractmethod
    def propose(self, images: Tensor, best: Tensor, number: int, draws: Draws) -> Tensor:
        """A point to try.

        Args:
            images: [N, C, H, W], the originals.
            best: [N, C, H, W], the best points so far.
            number: of the proposal; 0 is where the search begins.
            draws: N streams of this proposal.
        """

    @torch.no_grad()
    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch; see `PGD`. A budget of one point is not asked about: there is nothing to choose."""
        goal = as_goal(goal)
        ids = check_images(images, len(goal), ids)
        none = torch.zeros_like(ids)
        if len(images) == 0 or self.eps == 0:
            return AttackResult(images.clone(), none, none, none, none, 0)
        chunk = resolve_chunk(self.chunk, defended, images, len(images) * self.samples)
        asked = 0

        on_host = ids.cpu()

        def draws(phase: Phase, query: int) -> Draws:
            return Draws(seed=defended.seed, phase=phase, images=on_host, queries=torch.full_like(on_host, query))

        def proposal(number: int) -> Draws:
            return draws(Phase.START, number).to(images.device)

        def answer(points: Tensor) -> Tensor:
            nonlocal asked, chunk
            streams = draws(Phase.ATTACK, asked)
            asked += self.samples
            value, chunk = ask(defended, points, goal, LOSSES[self.loss], streams, self.samples, self.reading, chunk)
            return value

        best = self.propose(images, images, 0, proposal(0))
        value = answer(best) if self.points > 1 else images.new_zeros(len(images))
        for number in range(1, self.points):
            rival = self.propose(images, best, number, proposal(number))
            worth = answer(rival)
            value = answer(best) if self.requery else value
            better = worth >= value
            best, value = torch.where(better[:, None, None, None], rival, best), torch.where(better, worth, value)
        return AttackResult(best, none, none + asked, none, none, chunk)
