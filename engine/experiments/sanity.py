"""What must hold of any attack that works: a guard against robustness that is only an attack's failure."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, comb, log2

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack
from cannonade.attacks.noise import RandomNoise
from cannonade.attacks.pgd import PGD
from cannonade.attacks.reach import lost_gradient
from cannonade.attacks.square import Square
from cannonade.attacks.transfer import Transfer
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.voting import majority_vote

_EPS_FACTORS = (0.25, 1.0, 4.0, 16.0)
_STEP_SHARES = (0.0, 0.2, 1.0)


@dataclass(frozen=True)
class Course:
    """One attack and what it did.

    Attributes:
        name: the attack, for people.
        broken: [M] bool, the final votes that went wrong.
    """

    name: str
    broken: Tensor

    @property
    def rate(self) -> float:
        """Success rate."""
        return float(self.broken.double().mean())


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: what.
        passed: whether it does.
        words: the figures, and what they mean where it does not.
    """

    name: str
    passed: bool
    words: str


@dataclass(frozen=True)
class Sanity:
    """The outcome for one defense and attack.

    Attributes:
        images: number of images.
        attacked: M, those voted right beforehand.
        null_rate: share of them that another vote gets wrong without any attack.
        courses: every attack.
        checks: what must hold of them.
        resolution: images that must fall to one side only, for a comparison to fail.
    """

    images: int
    attacked: int
    null_rate: float
    courses: list[Course]
    checks: list[Check]
    resolution: int

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(check.passed for check in self.checks)


def check_sanity(
    defended: DefendedClassifier,
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    *,
    ids: Tensor | None = None,
    votes: int = 100,
    queries: int = 500,
    alpha: float = 0.05,
    chunk: Chunk = "auto",
    progress: Callable[[Course], None] = lambda course: None,
) -> Sanity:
    """Attack images with more and less of everything, and compare (after Athalye et al., ICML 2018, and Carlini et al. 2019).

    All attacks are judged by the same draws, so comparisons are paired: an exact sign test on the images that fall to one of
    two attacks only. Its level is alpha divided by the number of comparisons, so that sound gradients fail the whole with
    probability at most alpha.

    Args:
        defended: the defended classifier.
        images: [N, 3, H, W] in [0, 1].
        labels: [N] int64.
        attack: the white-box attack. For other eps and steps its step size changes so that it can come as far, in units of eps.
        ids: [N] int64, each image's index in its data set; 0 … N−1 by default.
        votes: n, predictions of a vote.
        queries: budget of Square.
        alpha: probability of a false alarm.
        chunk: rows of one pass of a vote.
        progress: called after each attack.

    Raises:
        InputError: no image is voted right, so that there is nothing to attack.
    """
    ids = torch.arange(len(images), device=images.device) if ids is None else ids
    benign = majority_vote(defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids, chunk=chunk)
    rows = (benign.labels == labels).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError(f"at least one image must be voted right before the attack, got none of {len(images)}")
    images, labels, ids = images[rows], labels[rows], ids[rows]
    null = majority_vote(defended, images, votes, phase=Phase.NULL_VOTE, ids=ids, chunk=chunk)
    null_rate = float((null.labels != labels).double().mean())
    zero = torch.zeros_like(ids, dtype=torch.bool)

    def course(name: str, each: Attack) -> Course:
        nonlocal zero
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a gradient that is zero everywhere is a check of its own
            result = each(defended, images, labels, ids=ids)
        if each is attack:
            zero = (result.zero > 0) & (result.zero * attack.gradient.samples == result.gradients)
        final = majority_vote(defended, result.images, votes, phase=Phase.FINAL_VOTE, ids=ids, chunk=chunk)
        done = Course(name, final.labels != labels)
        progress(done)
        return done

    white = course("white box", attack)
    by_eps = [white if each == attack else course(f"eps × {factor:g}", each) for factor, each in _other_eps(attack)]
    by_steps = [white if each == attack else course(f"{each.steps} steps", each) for each in _other_steps(attack)]
    rivals = [course(name, each) for name, each in _rivals(attack, queries)]
    level = alpha / (len(by_eps) - 1 + len(by_steps) - 1 + len(rivals))
    checks = [_gradient_check(defended, images, ids, zero)]
    checks += [_rises("success rises with eps", by_eps, level, "a larger ball holds the smaller one")]
    checks += [_complete(by_eps[-1])]
    checks += [
        _rises("success rises with steps", by_steps, level, "the step size is too large or the gradient misleads")
    ]
    checks += [_beats(white, rival, level) for rival in rivals]
    courses = [*by_eps, *(each for each in by_steps if each is not white), *rivals]
    return Sanity(len(benign.labels), len(rows), null_rate, courses, checks, ceil(-log2(level)))


def _other_eps(attack: PGD) -> list[tuple[float, PGD]]:
    largest = 1.0 if attack.norm == "linf" else float("inf")
    factors = [factor for factor in _EPS_FACTORS if attack.eps * factor <= largest]
    return [
        (factor, replace(attack, eps=attack.eps * factor, step_size=attack.step_size * factor)) for factor in factors
    ]


def _other_steps(attack: PGD) -> list[PGD]:
    """A single step, a fifth of the steps, and all: each may go as far as all the attack's steps together."""
    counts = sorted({max(1, round(share * attack.steps)) for share in _STEP_SHARES})
    return [replace(attack, steps=count, step_size=attack.step_size * (attack.steps / count)) for count in counts]


def _rivals(attack: PGD, queries: int) -> list[tuple[str, Attack]]:
    rivals: list[tuple[str, Attack]] = [("transfer", Transfer(attack=attack))]
    if attack.norm != "l1":
        rivals.append(("square", Square(eps=attack.eps, norm=attack.norm, queries=queries)))
    return [*rivals, ("noise", RandomNoise(eps=attack.eps, norm=attack.norm))]


def _sign_test(one: Course, other: Course) -> tuple[int, int, float]:
    """How many images fall to one only and to the other only, and the chance of so many for one among equals."""
    only_one, only_other = int((one.broken & ~other.broken).sum()), int((other.broken & ~one.broken).sum())
    discordant = only_one + only_other
    tail = sum(comb(discordant, k) for k in range(only_one, discordant + 1))
    return only_one, only_other, tail / 2**discordant


def _gradient_check(defended: DefendedClassifier, images: Tensor, ids: Tensor, zero: Tensor) -> Check:
    name = "a gradient reaches every image"
    if not zero.any():
        return Check(name, True, "none is zero at all steps")
    draws = Draws(seed=defended.seed, phase=Phase.SELECTION, images=ids, queries=torch.zeros_like(ids))
    words = lost_gradient(defended, images[zero], draws[zero])
    return Check(name, False, f"{int(zero.sum())} of {len(zero)} have none at any step: {words}")


def _rises(name: str, courses: list[Course], level: float, blame: str) -> Check:
    words = ", ".join(f"{course.name} {100 * course.rate:.0f} %" for course in courses)
    for smaller, larger in pairwise(courses):
        lost, won, chance = _sign_test(smaller, larger)
        if chance < level:
            return Check(
                name,
                False,
                f"{words}: from {smaller.name} to {larger.name}, {lost} images are lost and {won} won; {blame}",
            )
    return Check(name, True, words)


def _complete(largest: Course) -> Check:
    unbroken = int((~largest.broken).sum())
    words = f"{largest.name}: {100 * largest.rate:.0f} %"
    if unbroken:
        words += f", {unbroken} images stand even so; an attack that cannot break them there breaks nothing reliably"
    return Check("success reaches 100 % at the largest eps", unbroken == 0, words)


def _beats(white: Course, rival: Course, level: float) -> Check:
    only_rival, only_white, chance = _sign_test(rival, white)
    words = f"{100 * white.rate:.0f} % against {100 * rival.rate:.0f} %"
    if chance < level:
        words += (
            f": {only_rival} images fall to {rival.name} only, {only_white} to the white box only; the gradients mislead, and "
            "what robustness they show is not there"
        )
    return Check(f"white box at least as good as {rival.name}", chance >= level, words)
