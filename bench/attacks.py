"""`cannonade bench attacks`: our attacks beside other libraries' on the same stochastic classifier, judged by the same votes.

All attack the same images with the same k·m gradients, and their adversarial images are voted on with the same draws, which
no attack has seen. So the comparison is paired: McNemar's exact test on success, and a paired test on the mean loss, which
sees smaller differences. Two defects are planted in ours: the same table must find them.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack
from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT, Estimate
from cannonade.attacks.goals import Goal, Untargeted
from cannonade.attacks.losses import Loss, cross_entropy
from cannonade.attacks.pgd import PGD
from cannonade.bench import peers
from cannonade.bench.peers import Budget, PeerAttack
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.evaluation.paired import Paired
from cannonade.voting import majority_vote

# Each peer with what of ours spends the same budget in the same way.
PAIRS: dict[str, tuple[PeerAttack, str]] = {
    "torchattacks EOTPGD": (peers.torchattacks_eotpgd, "PGD, loss"),
    "ART PGD, mean gradient": (peers.art_pgd, "PGD, loss"),
    "foolbox PGD, EOT wrapper": (peers.foolbox_eot, "PGD, logits"),
    "pyautoattack APGD": (peers.pyautoattack_apgd, "AutoPGD"),
    "adv_lib APGD": (peers.adv_lib_apgd, "AutoPGD"),
}
DEFECTS = ("sign-flipped EOT", "one-draw EOT")


@dataclass(frozen=True, kw_only=True)
class _Flipped(EOT):
    """Planted: the gradient with the wrong sign."""

    def estimate(self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws) -> Estimate:
        found = super().estimate(defended, images, goal, loss, draws)
        return replace(found, gradient=-found.gradient)


@dataclass(frozen=True, kw_only=True)
class _OneDraw(EOT):
    """Planted: what are called m draws is one, m times."""

    def estimate(self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws) -> Estimate:
        return EOT(chunk=self.chunk).estimate(defended, images, goal, loss, draws)


@dataclass(frozen=True)
class Comparison:
    """One attack (the first) against another on the same N images.

    Attributes:
        first, second: names.
        images: N.
        success: of both, shares of N.
        only: images that only the first, and only the second broke.
        p_success: McNemar's exact test, two-sided.
        loss: of both, mean cross-entropy over images and draws of the final vote.
        p_loss: paired test of the mean difference in loss, two-sided.
        seen: the difference in success that the test would have found with probability .8 at level .05.
        seen_loss: likewise in loss.
    """

    first: str
    second: str
    images: int
    success: tuple[float, float]
    only: tuple[int, int]
    p_success: float
    loss: tuple[float, float]
    p_loss: float
    seen: float
    seen_loss: float

    @property
    def weaker(self) -> bool:
        """Whether the first is shown weaker than the second, at level .01 of either test."""
        below = self.only[0] < self.only[1] and self.p_success < 0.01
        return below or (self.loss[0] < self.loss[1] and self.p_loss < 0.01)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"weaker": self.weaker}


@dataclass(frozen=True)
class Judged:
    """What the final draws say of an attack's images: [N] whether the vote is wrong, [N] mean loss."""

    success: Tensor
    loss: Tensor


def ours(budget: Budget) -> dict[str, Attack]:
    """Our attacks for a budget, and the two with a planted defect."""

    def pgd(gradient: EOT) -> PGD:
        return PGD(eps=budget.eps, steps=budget.steps, step_size=budget.step_size, gradient=gradient)

    m = budget.samples
    return {
        "PGD, loss": pgd(EOT(samples=m)),
        "PGD, logits": pgd(EOT(samples=m, average="logits")),
        "AutoPGD": AutoPGD(eps=budget.eps, steps=budget.steps, gradient=EOT(samples=m)),
        "sign-flipped EOT": pgd(_Flipped(samples=m)),
        "one-draw EOT": pgd(_OneDraw(samples=m)),
    }


def compare(
    defended: DefendedClassifier,
    images: Tensor,
    labels: Tensor,
    budget: Budget,
    *,
    votes: int = 100,
    progress: Callable[[str, Judged], None] = lambda name, judged: None,
) -> Iterator[Comparison]:
    """Attack with everything, judge, and compare.

    Args:
        defended: the classifier; its `forward` must draw afresh.
        images: [N, 3, H, W] in [0, 1], those that the vote gets right.
        labels: [N] int64.
        budget: of every attack.
        votes: n, of the final vote and of the mean loss.
        progress: called with every attack's name and judgement.
    """
    judged: dict[str, Judged] = {}
    for name, attack in ours(budget).items():
        judged[name] = judge(defended, attack(defended, images, Untargeted(labels)).images, labels, votes)
        progress(name, judged[name])
    for name, (attack_by_peer, own) in PAIRS.items():
        found = attack_by_peer(defended, images.clone(), labels.clone(), budget).detach().to(images.dtype)
        found = (images + (found - images).clamp(-budget.eps, budget.eps)).clamp(0, 1)
        judged[name] = judge(defended, found, labels, votes)
        progress(name, judged[name])
        yield _compare(own, judged[own], name, judged[name])
    for name in DEFECTS:
        yield _compare(name, judged[name], "torchattacks EOTPGD", judged["torchattacks EOTPGD"])


def judge(defended: DefendedClassifier, images: Tensor, labels: Tensor, votes: int) -> Judged:
    """Vote and mean loss over the same n draws of the final phase."""
    vote = majority_vote(defended, images, votes, phase=Phase.FINAL_VOTE)
    ids = torch.arange(len(images), device=images.device)
    total = images.new_zeros(len(images))
    with torch.no_grad():
        for query in range(votes):
            draws = Draws(seed=defended.seed, phase=Phase.FINAL_VOTE, images=ids, queries=torch.full_like(ids, query))
            total += cross_entropy(defended.logits(images, draws), labels)
    return Judged(vote.labels != labels, total / votes)


def _compare(first: str, one: Judged, second: str, other: Judged) -> Comparison:
    counts = Paired.of(one.success.tolist(), other.success.tolist())
    n = len(one.success)
    difference = (one.loss - other.loss).double()
    error = float(difference.std()) / sqrt(n)
    normal = NormalDist()
    power = normal.inv_cdf(0.975) + normal.inv_cdf(0.8)
    return Comparison(
        first=first,
        second=second,
        images=n,
        success=(float(one.success.double().mean()), float(other.success.double().mean())),
        only=(counts.only_first, counts.only_second),
        p_success=counts.p,
        loss=(float(one.loss.mean()), float(other.loss.mean())),
        p_loss=2 * normal.cdf(-abs(float(difference.mean())) / error) if error else 1.0,
        seen=power * sqrt(max(1, counts.only_first + counts.only_second)) / n,
        seen_loss=power * error,
    )
