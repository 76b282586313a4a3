"""How to spend a fixed budget of gradients, on steps or on draws: the paper's advice to tune before reaching for EOT."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import LOSSES, margin
from cannonade.attacks.pgd import PGD
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.voting import majority_vote

_KEPT = 0.5  # of the allocations, after each round


@dataclass(frozen=True)
class Agreement:
    """How much the gradients of different draws have in common, at the clean images; the median image's.

    Attributes:
        signs: share of the values whose signs two draws agree on; ½ is chance.
        tau: τ = tr Σ/‖g‖² of the per-draw gradient: the mean of m draws has cosine (1 + τ/m)^−½ with the true one. Infinite
            where the draws seen have no common direction.
    """

    signs: float
    tau: float

    def cosine(self, samples: int) -> float:
        """Expected cosine of the mean of m draws with the gradient of the mean loss."""
        return float((1 + self.tau / samples) ** -0.5)


@dataclass(frozen=True)
class Allocation:
    """One way to spend a budget.

    Attributes:
        steps: k.
        samples: m.
        step_size: α.
        average: what EOT averages.
    """

    steps: int
    samples: int
    step_size: float
    average: str

    def attack(self, base: PGD) -> PGD:
        """The base attack, spending its budget so."""
        eot = EOT(samples=self.samples, average=self.average, chunk=base.gradient.chunk)  # type: ignore[arg-type]
        return replace(base, steps=self.steps, step_size=self.step_size, gradient=eot)


@dataclass
class Trial:
    """What an allocation has come to.

    Attributes:
        allocation: the allocation.
        leads: of each image attacked so far, by how large a share of the votes it is past its goal, −1 … 1.
        reached: of each, whether the vote says that it is.
        rounds: rounds of the pilot that it took part in.
    """

    allocation: Allocation
    leads: list[float]
    reached: list[bool]
    rounds: int = 0

    @property
    def rate(self) -> float:
        """Success rate."""
        return sum(self.reached) / max(1, len(self.reached))

    @property
    def lead(self) -> float:
        """Mean lead."""
        return sum(self.leads) / max(1, len(self.leads))

    @property
    def merit(self) -> tuple[int, float, float]:
        """What the ranking goes by: how long it stayed, then success, then lead."""
        return self.rounds, self.rate, self.lead


def allocations(
    budget: int, eps: float, samples: Sequence[int], step_shares: Sequence[float], averages: Sequence[str]
) -> list[Allocation]:
    """All allocations of a budget of k·m gradients.

    Args:
        budget: k·m.
        eps: radius of the ball.
        samples: values of m to try, those that divide the budget.
        step_shares: step sizes to try, as shares of eps.
        averages: what to average; one draw has only one average.

    Raises:
        InputError: no value of m divides the budget.
    """
    usable = [m for m in samples if 1 <= m <= budget and budget % m == 0]
    if not usable:
        raise InputError(f"one of the numbers of samples must divide the budget {budget}, got {tuple(samples)}")
    return [
        Allocation(budget // m, m, share * eps, average)
        for m in usable
        for share in step_shares
        for average in (averages if m > 1 else ("loss",))
    ]


def pilot(
    defended: DefendedClassifier,
    images: Tensor,
    goal: Goal,
    base: PGD,
    candidates: Sequence[Allocation],
    *,
    ids: Tensor,
    votes: int = 20,
    first: int = 4,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Successive halving (Jamieson & Talwalkar, AISTATS 2016): all on few images, the better half on twice as many, and so on.

    Every candidate spends its whole budget on each image it is tried on, because what is best for a small budget is not best
    for a large one; what is halved is the number of candidates. Judged by votes of the selection phase, the same draws for all.

    Args:
        defended: the defended classifier.
        images: [N, 3, H, W] in [0, 1].
        goal: of N images.
        base: the attack whose steps, step size and gradient are replaced.
        candidates: what to try.
        ids: [N] int64, each image's index in its data set.
        votes: predictions of a vote.
        first: images of the first round.
        progress: called after each candidate's turn.

    Returns:
        All trials, the best first.
    """
    if not len(images) or not candidates:
        raise InputError(f"a pilot needs images and candidates, got {len(images)} and {len(candidates)}")
    trials = [Trial(candidate, [], []) for candidate in candidates]
    running, done, until = trials, 0, min(first, len(images))
    while True:
        rows = torch.arange(done, until, device=images.device)
        for trial in running:
            _extend(trial, defended, images[rows], goal[rows], base, ids[rows], votes)
            progress(trial)
        if until == len(images):
            return sorted(trials, key=lambda trial: trial.merit, reverse=True)
        running = sorted(running, key=lambda trial: trial.merit, reverse=True)[: max(2, round(_KEPT * len(running)))]
        done, until = until, min(2 * until, len(images))


def _extend(
    trial: Trial, defended: DefendedClassifier, images: Tensor, goal: Goal, base: PGD, ids: Tensor, votes: int
) -> None:
    points = trial.allocation.attack(base)(defended, images, goal, ids=ids).images
    counted = majority_vote(defended, points, votes, phase=Phase.SELECTION, ids=ids, chunk=base.gradient.chunk)
    trial.leads += goal.objective(counted.counts / votes, margin).tolist()
    trial.reached += goal.reached(counted.labels).tolist()
    trial.rounds += 1


def confirm(
    defended: DefendedClassifier,
    images: Tensor,
    goal: Goal,
    base: PGD,
    allocation: Allocation,
    *,
    ids: Tensor,
    votes: int,
) -> Tensor:
    """[N] bool, whether an allocation reaches the goal on images that the pilot has not seen, by a final vote."""
    points = allocation.attack(base)(defended, images, goal, ids=ids).images
    counted = majority_vote(defended, points, votes, phase=Phase.FINAL_VOTE, ids=ids, chunk=base.gradient.chunk)
    return goal.reached(counted.labels)


def agreement(
    defended: DefendedClassifier, images: Tensor, goal: Goal, base: PGD, *, ids: Tensor, draws: int = 16
) -> Agreement:
    """How much the gradients of single draws agree, from some draws of each image (selection phase).

    Args:
        defended: the defended classifier.
        images: [N, 3, H, W] in [0, 1], N ≥ 1.
        goal: of N images.
        base: its loss and chunk are used.
        ids: [N] int64, each image's index in its data set.
        draws: d ≥ 2, gradients of each image.
    """
    if draws < 2:
        raise InputError(f"draws must be at least 2 to be compared, got {draws}")
    eot, loss = EOT(chunk=base.gradient.chunk), LOSSES[base.loss]
    signs, total = torch.zeros_like(images, dtype=torch.float64), torch.zeros_like(images, dtype=torch.float64)
    squares = images.new_zeros(len(images), dtype=torch.float64)
    pairs_seen = torch.zeros_like(signs)
    for query in range(draws):
        streams = Draws(seed=defended.seed, phase=Phase.SELECTION, images=ids, queries=torch.full_like(ids, query))
        gradient = eot.estimate(defended, images, goal, loss, streams).gradient.double()
        signs += gradient.sign()
        pairs_seen += gradient.sign().abs()
        total += gradient
        squares += gradient.flatten(1).square().sum(1)
    # Of d signs with sum s, (s² − d)/2 is the number of agreeing pairs less that of differing ones; zeros are left out.
    excess = ((signs.square() - pairs_seen) / 2).flatten(1).sum(1)
    pairs = (pairs_seen * (pairs_seen - 1) / 2).flatten(1).sum(1).clamp(min=1)
    common = (total.flatten(1).square().sum(1) - squares) / (draws * (draws - 1))
    tau = torch.where(common > 0, (squares / draws - common) / common, torch.inf)
    return Agreement(float((0.5 + excess / pairs / 2).median()), float(tau.clamp(min=0).median()))
