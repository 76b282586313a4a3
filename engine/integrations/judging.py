"""Adversarial images of any framework, judged as ours are: by a vote whose draws no attack has seen."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.norms import NORMS
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.voting import Votes, majority_vote

_ROUNDING = 1e-5  # by which float32 arithmetic of other frameworks may leave a ball or [0, 1]


@dataclass(frozen=True)
class Judgement:
    """What a vote says of adversarial images.

    Attributes:
        votes: the vote.
        success: [N] bool, whether the vote satisfies the goal.
        once: [N] bool, whether the first of its predictions does: what a framework that looks once would count.
    """

    votes: Votes
    success: Tensor
    once: Tensor

    @property
    def lucky(self) -> Tensor:
        """[N] bool, successes of one prediction that the vote does not confirm."""
        return self.once & ~self.success


def judge(
    defended: DefendedClassifier,
    adversarial: Tensor,
    labels: Tensor,
    *,
    targeted: bool = False,
    votes: int = 100,
    originals: Tensor | None = None,
    norm: str = "linf",
    eps: float | None = None,
    ids: Tensor | None = None,
    chunk: Chunk = "auto",
) -> Judgement:
    """Judge adversarial images, whoever made them.

    Args:
        defended: the classifier that was attacked.
        adversarial: [N, 3, H, W] in [0, 1]; what rounding put outside is clipped.
        labels: [N] int64, the true labels, or the targets.
        targeted: which of the two.
        votes: n, predictions of the vote.
        originals: [N, 3, H, W], the images before the attack; with `eps`, the images are checked to lie in the ball.
        norm: of the ball, "linf", "l2" or "l1".
        eps: radius of the ball in units of [0, 1].
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        chunk: rows of one pass.

    Raises:
        InputError: bad images, or an image outside the ball.
    """
    adversarial = adversarial.detach()
    if originals is not None and eps is not None:
        distance = NORMS[norm].distance(adversarial.double() - originals.double())
        if len(distance) and not distance.max() <= eps * (1 + _ROUNDING) + _ROUNDING:
            raise InputError(
                f"adversarial images must lie within {eps:.4g} of the originals in {norm}, got {float(distance.max()):.4g}"
            )
    clipped = adversarial.clamp(0, 1)
    inside = torch.where((clipped - adversarial).abs() <= _ROUNDING, clipped, adversarial)
    goal = Targeted(labels) if targeted else Untargeted(labels)
    votes_cast = majority_vote(defended, inside, votes, ids=ids, chunk=chunk)
    first = majority_vote(defended, inside, 1, ids=ids, chunk=chunk)
    return Judgement(votes_cast, goal.reached(votes_cast.labels), goal.reached(first.labels))
