"""When a majority vote of n may stop: once the rest cannot change the winner, or is shown to be unlikely to."""

from math import inf, log

import torch
from torch import Tensor

_LOOKAHEAD = 64
# The bet never stakes everything: where a vote for the rival is the only one left, the exact rule decides.
_NEARLY_ONE = 1 - 1e-9


class Race:
    """N votes under way, and which classes are out of each: no longer able, or too unlikely, to win all n.

    The winner is the class with most of the n votes, the smaller one on ties. A vote is decided when one class is left.

    A class j is out, *exactly*, once the leader L is further ahead than the remaining votes: with c the counts after t votes,
    d = c_L − c_j + [L < j] > n − t.

    It is out, *sequentially*, once a gambler who bets against it has multiplied his money by 1/α. Before each vote he stakes
    the share b of his money; it is gone if the vote is for j, and with δ = d / (n − t) pays b·(1 + δ)/(1 − δ) if it is for the
    leader and b·δ/(1 − δ) if it is for anybody else. He sets b = 1 − 2/(1 + δ)·(c_j + ½)/(c_L + c_j + 1), and 0 if that is
    negative or if j itself leads: the best stake were the votes to come like those before, estimated as Krichevsky and
    Trofimov do (IEEE Trans. Inf. Theory 1981), which costs against the best constant stake ½·log t + O(1).

    **The winner is out with probability at most α**, whatever the counts of the n votes, their number of classes, and the
    times at which one looks. Let j be the winner. The draws are independent, so given the final counts C every order of
    the n votes is equally likely, and given the first t votes the next is for class i with probability
    p_i = (C_i − c_i)/(n − t). As j wins, C_j ≥ C_L + [L < j], so p_j − p_L ≥ δ. The gain of a unit stake is then on average,
    since (1 + δ)/(1 − δ) = 1 + 2δ/(1 − δ),

        p_L·(1 + δ)/(1 − δ) + (1 − p_L − p_j)·δ/(1 − δ) − p_j = (p_L − p_j) + (1 + p_L − p_j)·δ/(1 − δ)
                                                              ≤ −δ + (1 − δ)·δ/(1 − δ) = 0.

    L, δ and b are known before the vote, so the money is a nonnegative supermartingale that starts at 1, and by Ville's
    inequality reaches 1/α with probability at most α (the exact rule never errs). A wrong decision needs the winner to be out.
    Nothing is divided by the number of looks, because Ville's inequality holds at all times at once, nor by that of classes,
    because only one class, the leader of the moment, is ever bet on against j. As the votes run out δ grows to 1 and the
    rule passes into the exact one.

    Sources: testing by betting without replacement, Waudby-Smith and Ramdas (NeurIPS 2020) and Waudby-Smith, Stark and Ramdas
    (RiLACS, E-Vote-ID 2021); Ville (1939).

    Args:
        images: N.
        classes: K.
        n: votes of one image at most.
        alpha: probability that a decision may differ from the winner of all n votes; 0 for the exact rule.
        device: of the state.

    Attributes:
        counts: [N, K] int64, votes so far.
        cast: [N] int64, their number.
        out: [N, K] bool.
        decided: [N] bool, whether at most one class is left.
        money: [N, K] float64, logarithm of the gambler's money against each class.
    """

    def __init__(self, images: int, classes: int, n: int, alpha: float, device: torch.device | None = None) -> None:
        self.n = n
        self.alpha = alpha
        self.counts = torch.zeros(images, classes, dtype=torch.int64, device=device)
        self.cast = torch.zeros(images, dtype=torch.int64, device=device)
        self.out = torch.zeros(images, classes, dtype=torch.bool, device=device)
        self.decided = torch.zeros(images, dtype=torch.bool, device=device)
        self.money = torch.zeros(images, classes if alpha else 0, dtype=torch.float64, device=device)

    @property
    def bar(self) -> float:
        """log 1/α."""
        return -log(self.alpha) if self.alpha else inf

    @property
    def labels(self) -> Tensor:
        """[N] int64, the most voted of the classes that are left, or of all where none is."""
        left = ~self.out | self.out.all(1, keepdim=True)
        return torch.where(left, self.counts, -1).argmax(1)

    def add(self, images: Tensor, votes: Tensor) -> None:
        """Count one vote each for some images, those that are decided excepted.

        Args:
            images: [M] int64, all different.
            votes: [M] int64, the labels voted for.
        """
        still = ~self.decided[images]
        images, votes = images[still], votes[still]
        counts = self.counts[images]
        if self.alpha:
            self.money[images] += self._gain(counts, votes)
        counts.scatter_add_(1, votes[:, None], torch.ones_like(votes[:, None]))
        remaining = self.n - counts.sum(1, keepdim=True)
        out = self.out[images] | (_ahead(counts) > remaining)
        if self.alpha:
            out |= self.money[images] >= self.bar
        self.counts[images], self.out[images] = counts, out
        self.decided[images] = (~out).sum(1) <= 1
        self.cast[images] += 1

    def _gain(self, counts: Tensor, votes: Tensor) -> Tensor:
        """Logarithm of what one vote does to the money against every class: [M, K]."""
        leader = counts.argmax(1, keepdim=True)
        most = counts.gather(1, leader)
        classes = torch.arange(counts.shape[1], device=counts.device)
        remaining = self.n - counts.sum(1, keepdim=True)
        edge = (_ahead(counts) / remaining.double()).clamp(max=_NEARLY_ONE)
        stake = 1 - (2 * counts + 1) / ((most + counts + 1) * (1 + edge))
        stake = torch.where(classes == leader, 0.0, stake.clamp(min=0))
        pay = stake * edge / (1 - edge)
        pay = torch.where(votes[:, None] == leader, 2 * pay + stake, pay)
        return torch.log1p(torch.where(classes == votes[:, None], -stake, pay))

    def wanted(self) -> Tensor:
        """[N] int64: votes before which no image can be decided, whatever they are; 0 for the decided ones.

        Money grows at most 2/(1 − δ)-fold in a vote, with δ as if every one went against the class that has fewest votes, and
        the last class but one has to go out: a lower bound, and cheap.
        """
        open_ = (~self.decided).nonzero()[:, 0]
        wanted = torch.zeros_like(self.cast)
        remaining = self.n - self.cast[open_]
        if self.alpha:
            steps = torch.arange(1, _LOOKAHEAD + 1, device=wanted.device)
            counts = self.counts[open_]
            widest = (counts.amax(1) - counts.amin(1) + 1)[:, None]
            edge = ((widest + steps) / (remaining[:, None] - steps).clamp(min=0)).clamp(max=1).double()
            reach = (log(2) - torch.log1p(-edge)).cumsum(1)
            needed = self.bar - _second(torch.where(self.out[open_], inf, self.money[open_]))
            votes = (reach < needed[:, None]).sum(1) + 1
        else:
            votes = (remaining - _second(_ahead(self.counts[open_]))) // 2 + 1
        wanted[open_] = votes.clamp(min=1).minimum(remaining)
        return wanted


def _ahead(counts: Tensor) -> Tensor:
    """Votes that the leader has more than each class, with ties already settled: [N, K]; 0 for the leader itself."""
    leader = counts.argmax(1, keepdim=True)
    classes = torch.arange(counts.shape[1], device=counts.device)
    return counts.gather(1, leader) - counts + (leader < classes)


def _second(values: Tensor) -> Tensor:
    """The smallest value but one of each row; of a single one, itself."""
    return values.topk(min(2, values.shape[1]), dim=1, largest=False).values[:, -1]
