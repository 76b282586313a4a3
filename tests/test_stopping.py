"""Stopped votes: exhaustively on short ones, by simulation at the worst case on long ones, with defects that must be found."""

import itertools

import pytest
import torch

from cannonade.experiments.early_stopping import LOOKS, SHARES, binomial_looks, decide, savings, shuffled
from cannonade.stopping import Race

REPETITIONS = 100_000


class Peeking(Race):
    """Bets on the leader as it stands after the vote."""

    def _gain(self, counts, votes):
        return super()._gain(counts.scatter_add(1, votes[:, None], torch.ones_like(votes[:, None])), votes)


class Partial(Race):
    """Gives ties to the larger label."""

    def add(self, images, votes):
        super().add(images, self.counts.shape[1] - 1 - votes)

    @property
    def labels(self):
        return self.counts.shape[1] - 1 - super().labels


def winners(votes, classes):
    return torch.stack([(votes == label).sum(1) for label in range(classes)], dim=1).argmax(1)


def all_votes(n, classes):
    return torch.tensor(list(itertools.product(range(classes), repeat=n)))


def worst_error(race, votes, classes):
    """The largest share of wrong decisions among the orders of any one set of counts: exact, no simulation."""
    wrong = decide(race, votes).labels != winners(votes, classes)
    counts = torch.stack([(votes == label).sum(1) for label in range(classes)], dim=1)
    _, group = counts.unique(dim=0, return_inverse=True)
    return float((torch.bincount(group, wrong.double()) / torch.bincount(group)).max())


@pytest.mark.parametrize(("n", "classes"), [(12, 2), (13, 2), (9, 3), (6, 4)])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_error_of_every_short_vote(n, classes, alpha):
    votes = all_votes(n, classes)
    assert worst_error(Race(len(votes), classes, n, alpha), votes, classes) <= alpha


@pytest.mark.parametrize("defect", [Peeking, Partial])
def test_defects_err_on_a_short_vote(defect):
    votes = all_votes(12, 2)
    assert worst_error(defect(len(votes), 2, 12, 0.2), votes, 2) > 0.2


@pytest.mark.parametrize(("n", "classes"), [(11, 2), (8, 3), (6, 4), (3, 1), (1, 3)])
def test_exact_never_errs_and_stops_as_soon_as_it_can(n, classes):
    votes = all_votes(n, classes)
    race = decide(Race(len(votes), classes, n, 0.0), votes)
    assert torch.equal(race.labels, winners(votes, classes))
    # Decided at t means that all completions of the first t agree, and of the first t − 1 not: group by the prefix.
    weights = classes ** torch.arange(n - 1, -1, -1)
    codes, winner = (votes * weights).sum(1), winners(votes, classes)
    settled = torch.full((len(votes),), n)
    for t in range(n - 1, 0, -1):
        _, group = (codes // classes ** (n - t)).unique(return_inverse=True)
        low = torch.full((int(group.max()) + 1,), classes).scatter_reduce(0, group, winner, "amin")
        high = torch.full_like(low, -1).scatter_reduce(0, group, winner, "amax")
        settled = torch.where((low == high)[group], t, settled)
    assert torch.equal(race.cast, settled)


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3])
def test_no_image_is_decided_before_what_it_wanted(alpha):
    votes = all_votes(8, 3)
    race, every = Race(len(votes), 3, 8, alpha), torch.arange(len(votes))
    wanted = race.wanted()
    for column in votes.T:
        race.add(every, column)
        assert (race.cast >= wanted)[race.decided].all()
        wanted = torch.where(race.cast >= wanted, race.cast + race.wanted(), wanted)
    assert race.decided.all()
    assert (race.wanted() == 0).all()


# The winner first: it has the smaller label, so it wins the tie, and whoever is ahead of it misleads.
WORST = [
    ((50, 50), 0.05),
    ((50, 50), 0.2),
    ((10, 10), 0.2),
    ((31, 29), 0.2),
    ((15, 15, 15), 0.05),
    ((15, 15, 15), 0.2),
    ((0, 10, 0, 10, 0, 10, 0), 0.2),
    ((3,) * 10, 0.2),
]


def too_often(errors, alpha):
    """False alarm 1e-4, if the error has probability alpha."""
    return errors.double().sum() > alpha * len(errors) + 3.72 * (len(errors) * alpha * (1 - alpha)) ** 0.5


@pytest.mark.parametrize(("counts", "alpha"), WORST, ids=str)
def test_error_at_the_worst_case(counts, alpha):
    votes = shuffled(counts, REPETITIONS)
    race = decide(Race(REPETITIONS, len(counts), sum(counts), alpha), votes)
    winner = torch.tensor(counts).argmax()
    assert not too_often(race.labels != winner, alpha)
    assert not too_often(race.out[:, winner], alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_simulation_finds_a_missing_factor_of_looks(alpha):
    """The binomial rule is valid with its union bound, and errs without the share of the looks in it."""
    votes = shuffled((50, 50), REPETITIONS)
    assert not too_often(binomial_looks(votes, 2, alpha)[1] != 0, alpha)
    assert too_often(binomial_looks(votes, 2, alpha, divisor=1)[1] != 0, alpha)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_simulation_finds_a_missing_factor_of_classes(alpha):
    """Whoever bets on all K − 1 rivals at once, each with all his money, rules the winner out too often."""
    votes = shuffled((12,) * 10, 5_000)
    race = decide(Race(len(votes), 10, 120, alpha), votes)
    assert not too_often(race.out[:, 0], alpha)
    duels = [duel(votes, rival) for rival in range(1, 10)]
    for share, fails in ((1, True), (9, False)):
        beaten = torch.stack([decide(Race(len(votes), 2, 24, alpha / share), pair).out[:, 0] for pair in duels])
        assert too_often(beaten.any(0), alpha) == fails


def duel(votes, rival):
    """The votes for class 0 and for its rival, as 0 and 1, in their order: [R, 24] of the [R, 120]."""
    taking_part = (votes == 0) | (votes == rival)
    return (votes == rival)[taking_part].reshape(len(votes), 24).long()


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_empty_classes_do_not_matter(alpha):
    """So that what holds for 7 classes, the empty ones between those with votes, holds for 1,000."""
    votes = shuffled((0, 25, 0, 20, 0, 15, 0), 300)
    few = decide(Race(300, 7, 60, alpha), votes)
    places = torch.tensor([0, 3, 4, 500, 501, 998, 999])
    many = decide(Race(300, 1000, 60, alpha), places[votes])
    assert torch.equal(many.cast, few.cast)
    assert torch.equal(many.labels, places[few.labels])


def test_savings():
    """Fewer votes than binomial tests at fixed looks, at every share, and at least 8 times fewer than n from .9 on."""
    rows = {(row.share, row.rule): row for row in savings(200)}
    for share in SHARES:
        sequential = rows[share, "sequential"]
        assert sequential.votes <= min(rows[share, "binomial"].votes, rows[share, "exact"].votes)
        assert rows[share, "exact"].disagreements == 0
        assert sequential.disagreements <= 2  # 200 decisions at 1e-3 have three wrong with probability 1e-3
        assert share < 0.9 or sequential.votes <= 500 / 8
    assert LOOKS[0] == 8
