"""One batch, evaluated: who was right, who was attacked, and who was fooled by vote."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack, AttackResult
from cannonade.attacks.goals import Goal, goal_for
from cannonade.attacks.norms import NORMS
from cannonade.chunking import Chunk, resolve_chunk, with_retreat
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.stopwatch import Stopwatch
from cannonade.voting import Stop, Votes, majority_vote

INVARIANCE_DRAWS = 20


@dataclass(frozen=True)
class Outcome:
    """What became of a batch of N images, of which M were attacked.

    Attributes:
        undefended: [N] int64, the classifier's labels for the N clean images without its defense.
        invariance: [N] float64, the share of draws on the clean image that agree with that: of the benign vote, or where votes
            stop early, which is no fair sample, of `INVARIANCE_DRAWS` others.
        benign: votes on the N clean images.
        attacked: [M] int64, the rows that did not satisfy the goal before the attack.
        goal: of the M attacked images.
        attack: what the attack returned for them.
        final: votes on the M adversarial images.
        null: votes on the same M images unperturbed, by draws of their own: how often the vote alone changes its mind.
        distance: [M] float64, size of the perturbations in the attack's norm.
    """

    undefended: Tensor
    invariance: Tensor
    benign: Votes
    attacked: Tensor
    goal: Goal
    attack: AttackResult
    final: Votes
    null: Votes
    distance: Tensor

    @property
    def success(self) -> Tensor:
        """[M] bool, whether the vote on the adversarial image satisfies the goal."""
        return self.goal.reached(self.final.labels)

    @property
    def null_success(self) -> Tensor:
        """[M] bool, whether the null vote satisfies the goal."""
        return self.goal.reached(self.null.labels)


def evaluate_batch(
    defended: DefendedClassifier,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    votes: int,
    stop: Stop | None = None,
    alpha: float = 1e-3,
    targets: Tensor | None = None,
    ids: Tensor | None = None,
    chunk: Chunk = "auto",
    benign: Votes | None = None,
    shared_draws: bool = False,
    watch: Stopwatch | None = None,
) -> Outcome:
    """Vote, attack, vote again (paper, section 6.1).

    Images that satisfy the goal beforehand are not attacked: in the untargeted case those voted wrong, in the targeted case
    those voted as the target and those whose true label is the target.

    Args:
        defended: the stochastic classifier.
        images: [N, 3, H, W] in [0, 1].
        labels: [N] int64, the true labels.
        attack: the attack, with the way it estimates gradients.
        votes: n, predictions of a majority vote.
        stop, alpha: when a vote ends earlier, as in `majority_vote`.
        targets: [N] int64 for a targeted attack, −1 for the images that have none; None where no image has one.
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        chunk: rows of one pass of a vote.
        benign: the benign vote, where it was cast before.
        shared_draws: let the final vote see the draws of the benign one. For checks against closed forms only: an attack must
            never be judged so.
        watch: counts the seconds of "benign vote", "attack", "final vote" and "null vote".

    Example:
        >>> from cannonade import EOT, PGD, build_defense
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> defended = DefendedClassifier(net, build_defense("smoothing(sigma=0.1)"))
        >>> images = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        >>> attack = PGD(eps=0.2, steps=5, step_size=0.1, gradient=EOT(samples=2))
        >>> outcome = evaluate_batch(defended, images, torch.tensor([0]), attack, votes=20)
        >>> len(outcome.attacked), outcome.success
        (1, tensor([True]))
    """
    watch = watch or Stopwatch(images.device)
    ids = torch.arange(len(images), device=images.device) if ids is None else ids
    goal = goal_for(labels, targets, defended.num_classes)
    cast = partial(majority_vote, defended, n=votes, stop=stop, alpha=alpha, chunk=chunk)
    with watch.part("benign vote"):
        undefended = _undefended(defended, images, chunk)
        if benign is None:
            benign = cast(images, phase=Phase.BENIGN_VOTE, ids=ids)
        open_ = ~goal.reached(benign.labels)
        if targets is not None:
            open_ &= targets != labels
        attacked = open_.nonzero()[:, 0]
        goal = goal[attacked]
        invariance = _agreement(defended, images, undefended, benign, stop, ids, chunk)
    with watch.part("attack"):
        result = attack(defended, images[attacked], goal, ids=ids[attacked])
    with watch.part("final vote"):
        judged = Phase.BENIGN_VOTE if shared_draws else Phase.FINAL_VOTE
        final = cast(result.images, phase=judged, ids=ids[attacked])
    with watch.part("null vote"):
        null = cast(images[attacked], phase=Phase.NULL_VOTE, ids=ids[attacked])
    distance = NORMS[attack.norm].distance(result.images.double() - images[attacked].double())
    return Outcome(undefended, invariance, benign, attacked, goal, result, final, null, distance)


@torch.no_grad()
def _undefended(defended: DefendedClassifier, images: Tensor, chunk: Chunk) -> Tensor:
    """[N] int64, the classifier's own labels."""
    if not len(images):
        return torch.zeros(0, dtype=torch.int64, device=images.device)

    def label(rows: int) -> Tensor:
        return torch.cat([defended.classifier(part).argmax(1) for part in images.split(rows)])

    return with_retreat(label, resolve_chunk(chunk, defended, images, len(images)))[0]


def _agreement(
    defended: DefendedClassifier,
    images: Tensor,
    undefended: Tensor,
    benign: Votes,
    stop: Stop | None,
    ids: Tensor,
    chunk: Chunk,
) -> Tensor:
    """[N] float64, the share of draws that agree with the classifier's own labels."""
    if stop is not None:
        benign = majority_vote(defended, images, INVARIANCE_DRAWS, phase=Phase.INVARIANCE, ids=ids, chunk=chunk)
    return benign.counts.gather(1, undefended[:, None])[:, 0] / benign.counts.sum(1)
