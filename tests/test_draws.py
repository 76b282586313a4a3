"""Laws of the draws, independence between streams, and independence of how streams are batched.

Every statistical test has a false-alarm level of 1e-4 and fixed seeds, so it passes always or never; each also rejects
a planted defect, which shows what it can see.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase, Stream, phase_key
from cannonade.errors import InputError
from cannonade.kernels.philox import philox
from cannonade.kernels.poisson import by_table

LEVEL = 1e-4
RATES = (0.3, 5.0, 127.5, 128.0, 300.7, 1000.0, 9999.9)

DRAWN = {
    "words": lambda stream: stream.words(7),
    "uniform": lambda stream: stream.uniform(-1, 3, (3,)),
    "normal": lambda stream: stream.normal(1, 2, (3, 5)),
    "normal_large": lambda stream: stream.normal(shape=(3, 70, 71)),
    "integers": lambda stream: stream.integers(-3, 9, (2, 2)),
    "bernoulli": lambda stream: stream.bernoulli(0.3, (5,)),
    "choice": lambda stream: stream.choice([1.5, 2.5, 9.0], (4,), weights=[1, 2, 3]),
    "permutation": lambda stream: stream.permutation(9),
    "poisson": lambda stream: stream.poisson(
        torch.tensor([0.4, 77.7, 3000.5, 20000.0]).expand(len(stream.coordinates), 4)
    ),
}


def make(images, queries=0, seed=0, phase=Phase.ATTACK):
    images = torch.as_tensor(images).reshape(-1)
    return Draws(seed=seed, phase=phase, images=images, queries=torch.as_tensor(queries).expand_as(images).clone())


def streams(rows, seed=0):
    return make(torch.arange(rows), seed=seed).site(0)


def goodness(observed, expected):
    """p-value of χ² for counts by cell, neighbouring cells merged until each is expected to hold 5."""
    cells, seen, hoped = [], 0.0, 0.0
    for count, mean in zip(observed, expected, strict=True):
        seen, hoped = seen + count, hoped + mean
        if hoped >= 5:
            cells.append([seen, hoped])
            seen, hoped = 0.0, 0.0
    cells[-1][0] += seen
    cells[-1][1] += hoped
    return stats.chisquare(*zip(*cells, strict=True)).pvalue


def poisson_fit(values, rate):
    """p-values of χ² over the cells and of the mean, for Poisson numbers of a rate."""
    highest = int(max(values.max(), stats.poisson.ppf(1 - 1e-12, rate))) + 1
    law = stats.poisson.pmf(np.arange(highest + 1), rate)
    law[-1] += stats.poisson.sf(highest, rate)
    cells = goodness(np.bincount(values.astype(int), minlength=highest + 1), law * len(values))
    mean = 2 * stats.norm.sf(abs(values.mean() - rate) / np.sqrt(rate / len(values)))
    return cells, mean


def correlation(a, b):
    """p-value of Pearson's correlation, and of that of the squares, being zero."""
    pairs = ((a, b), (a * a, b * b))
    scores = [np.corrcoef(x.ravel(), y.ravel())[0, 1] * np.sqrt(x.size) for x, y in pairs]
    return 2 * min(1, 2 * stats.norm.sf(max(map(abs, scores))))


def test_uniform_law():
    values = streams(1000).uniform(shape=(1000,)).double().numpy().ravel()
    assert stats.kstest(values, "uniform").pvalue > LEVEL
    assert stats.kstest(values**1.01, "uniform").pvalue < LEVEL
    assert values.min() >= 0
    assert values.max() < 1


def test_normal_law():
    values = streams(1000).normal(shape=(1000,)).double().numpy()
    for part in (values.ravel(), values[:, 0::2].ravel(), values[:, 1::2].ravel()):
        assert stats.kstest(part, "norm").pvalue > LEVEL
    assert stats.kstest(values.ravel() * 1.02, "norm").pvalue < LEVEL
    shifted = streams(1000).normal(3.0, 0.5, (1000,)).double().numpy().ravel()
    assert stats.kstest(shifted, "norm", (3.0, 0.5)).pvalue > LEVEL


def test_normal_tails():
    values = streams(1000).normal(shape=(4000,)).abs().double().numpy().ravel()
    edges = np.array([0, 1, 2, 3, 3.5, 4, 4.5, np.inf])
    expected = np.diff(-2 * stats.norm.sf(edges)) * values.size
    observed = np.histogram(values, edges)[0]
    assert goodness(observed, expected) > LEVEL
    # Box-Muller from 12-bit uniforms stops at 4.08.
    short = np.array([*observed[:4], observed[4:].sum(), 0, 0])
    assert goodness(short, expected) < LEVEL


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 3), (55, 95)])
def test_integers_law(low, high):
    values = streams(1000).integers(low, high, (500,)).numpy().ravel()
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert len(counts) == high - low + 1
    assert stats.chisquare(counts).pvalue > LEVEL
    half = np.floor(streams(1000).uniform(low, high, (500,)).numpy().ravel() + 0.5).astype(int) - low
    assert high - low == 1 or stats.chisquare(np.bincount(half)).pvalue < LEVEL, "half weight at the ends must show"


def test_integers_reach_both_ends_of_the_largest_range():
    values = streams(2000).integers(-(2**30), 2**30 - 1, (1000,))
    assert values.min() >= -(2**30)
    assert values.max() <= 2**30 - 1
    assert stats.kstest(values.double().numpy().ravel() / 2**31 + 0.5, "uniform").pvalue > LEVEL


def test_integers_with_bounds_by_row():
    low, high = torch.tensor([[0], [10]]), torch.tensor([[3], [10]])
    values = streams(2).integers(low, high, (1000,))
    assert sorted(values[0].unique().tolist()) == [0, 1, 2, 3]
    assert (values[1] == 10).all()


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_bernoulli_law(p):
    hits = int(streams(1000).bernoulli(p, (1000,)).sum())
    assert stats.binomtest(hits, 1_000_000, p).pvalue > LEVEL
    assert stats.binomtest(hits, 1_000_000, p * 1.02).pvalue < LEVEL


def test_bernoulli_never_and_always():
    assert not streams(100).bernoulli(0.0, (1000,)).any()
    assert streams(100).bernoulli(1.0, (1000,)).all()


def test_choice_law():
    weights = np.array([1.0, 0.0, 2.0, 4.0, 0.5])
    values = streams(1000).choice([0, 1, 2, 3, 4], (300,), weights=weights.tolist()).numpy().ravel()
    counts = np.bincount(values, minlength=5)
    assert counts[1] == 0
    kept = weights > 0
    assert stats.chisquare(counts[kept], weights[kept] / weights.sum() * len(values)).pvalue > LEVEL
    wrong = weights * [1, 1, 1, 1, 1.05]
    assert stats.chisquare(counts[kept], wrong[kept] / wrong.sum() * len(values)).pvalue < LEVEL
    assert stats.chisquare(np.bincount(streams(1000).choice([0, 1, 2], (300,)).numpy().ravel())).pvalue > LEVEL


def test_choice_keeps_the_options_type_and_skips_zero_weights_at_the_ends():
    assert streams(3).choice([0.5, 1.5]).dtype == torch.float32
    assert streams(3).choice(torch.tensor([1, 2], dtype=torch.int32), (2, 2)).dtype == torch.int32
    assert (streams(1000).choice([1, 2, 3], (100,), weights=[0, 1, 0]) == 2).all()


def test_permutation_law():
    orders = streams(120_000).permutation(5)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(5).expand(len(orders), 5))
    codes = (orders * 5 ** torch.arange(5)).sum(dim=1).unique(return_counts=True)[1].numpy()
    assert len(codes) == 120
    assert stats.chisquare(codes).pvalue > LEVEL
    biased = orders.clone()
    swap = streams(120_000, seed=1).bernoulli(0.05) & (orders[:, 0] > orders[:, 1])
    biased[swap, :2] = orders[swap][:, [1, 0]]
    codes = (biased * 5 ** torch.arange(5)).sum(dim=1).unique(return_counts=True)[1].numpy()
    assert stats.chisquare(codes).pvalue < LEVEL


@pytest.mark.parametrize("rate", RATES)
def test_poisson_law(rate):
    values = streams(1000).poisson(torch.full((1000, 600), rate, dtype=torch.float64)).numpy().ravel()
    assert min(poisson_fit(values, rate)) > LEVEL
    for wrong in (rate * 1.02, rate / 1.02):
        assert poisson_fit(values, wrong)[0] < LEVEL
    if rate > 1 and rate != int(rate):
        assert min(poisson_fit(values, int(rate))) < LEVEL, "a lost fraction must show"


def test_poisson_of_mixed_rates():
    rates = torch.tensor([0.0, 0.99, 40.5, 8192.0, 100_000.25, 270_335.9], dtype=torch.float64)
    values = streams(200_000).poisson(rates.expand(200_000, 6)).double().numpy()
    assert (values[:, 0] == 0).all()
    for column, rate in enumerate(rates.tolist()[1:], start=1):
        assert min(poisson_fit(values[:, column], rate)) > LEVEL


@pytest.mark.parametrize(("step", "rows"), [(1, 128), (128, 64), (8192, 33)])
def test_poisson_tables_are_the_quantiles_of_the_law(step, rows):
    row = torch.arange(rows)[:, None].expand(rows, 300)
    word = torch.randint(0, 1 << 32, (rows, 300), generator=torch.Generator().manual_seed(step))
    word[:, :6] = torch.tensor([0, 1, 1 << 12, 1 << 31, (1 << 32) - (1 << 12), (1 << 32) - 1])
    ours = by_table(row, word, step).numpy()
    truth = stats.poisson.ppf((word.numpy() + 0.5) / 2**32, step * row.numpy())
    assert np.abs(ours - truth).max() <= 1
    assert (ours != truth).mean() < 1e-3


def neighbours(kind):
    """Standardised uniforms [1000, 1001, …] of neighbouring images, queries, sites or elements, as two arrays."""
    rows = torch.arange(1001)
    if kind == "images":
        values = make(rows).site(0).uniform(shape=(1000,))
    elif kind == "queries":
        values = make(torch.full((1001,), 17), rows).site(0).uniform(shape=(1000,))
    elif kind == "sites":
        values = torch.cat([make(torch.arange(20)).site(n).uniform(shape=(1000,)) for n in range(50)])
    else:
        values = make(rows).site(0).uniform(shape=(1000,)).T
    values = (values.double().numpy() - 0.5) * np.sqrt(12)
    lag = 20 if kind == "sites" else 1
    return values[:-lag], values[lag:]


@pytest.mark.parametrize("kind", ["images", "queries", "sites", "elements"])
def test_neighbours_are_uncorrelated(kind):
    first, second = neighbours(kind)
    offsets = (0, 1, 2, 3, 4, 8)
    for offset in offsets:
        width = first.shape[1] - offset
        assert correlation(first[:, :width], second[:, offset:]) > LEVEL / len(offsets)
        assert correlation(first[:, offset:], second[:, :width]) > LEVEL / len(offsets)
    leaky = np.where(np.arange(first.size).reshape(first.shape) % 100 == 0, first, second)
    assert correlation(first, leaky) < LEVEL


@pytest.mark.parametrize("bit", [0, 1, 31])
def test_one_bit_of_a_coordinate_changes_half_the_bits_of_a_word(bit):
    coordinates = torch.randint(0, 1 << 32, (4000, 5), generator=torch.Generator().manual_seed(bit))
    words = Stream(coordinates).words(4)
    for column in range(5):
        flipped = coordinates.clone()
        flipped[:, column] ^= 1 << bit
        changed = int(sum(((words ^ Stream(flipped).words(4)) >> n & 1).sum() for n in range(32)))
        assert stats.binomtest(changed, 32 * words.numel(), 0.5).pvalue > LEVEL / 15


@pytest.mark.parametrize("name", DRAWN)
def test_rows_do_not_depend_on_the_batch(name):
    images = torch.tensor([5, 0, 4_294_967_295, 17, 5])
    queries = torch.tensor([0, 203, 1, 0, 1])
    batch = DRAWN[name](make(images, queries).site(3))
    assert len(batch) == 5
    for row in range(5):
        alone = DRAWN[name](make(images[row], queries[row]).site(3))
        assert torch.equal(alone[0], batch[row])
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(DRAWN[name](make(images[order], queries[order]).site(3)), batch[order])
    assert torch.equal(DRAWN[name](make(images, queries)[order].site(3)), batch[order])
    assert torch.equal(DRAWN[name](make(images, queries)[1:4].site(3)), batch[1:4])


@pytest.mark.parametrize("name", DRAWN)
def test_ahead_and_stored_coordinates_give_the_same_bits(name):
    draws = make(torch.arange(6), 9)
    for number in (0, 4, 5):
        expected = DRAWN[name](draws.site(number))
        ahead = draws.ahead(5)
        assert torch.equal(DRAWN[name](ahead.site(number)), expected)
        assert torch.equal(DRAWN[name](Stream(ahead.site(number).coordinates)), expected)
        assert torch.equal(DRAWN[name](ahead[2:5].site(number)), expected[2:5])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (2, 2), (5,)])
def test_drawing_ahead_of_small_shapes(shape):
    draws = make(torch.arange(6))
    for draw in (
        lambda stream: stream.uniform(2, 5, shape),
        lambda stream: stream.normal(1, 2, shape),
        lambda stream: stream.integers(0, 9, shape),
    ):
        first = draw(draws.ahead(3).site(2))
        assert first.shape == (6, *shape)
        assert torch.equal(first, draw(draws.site(2)))


def test_drawing_twice_gives_the_same_numbers():
    ahead = make(torch.arange(6)).ahead(2)
    stream = ahead.site(1)
    for draw in DRAWN.values():
        assert torch.equal(draw(stream), draw(stream))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_no_images_or_no_elements(shape):
    for rows in (0, 2):
        stream = streams(rows)
        for values in (stream.uniform(shape=shape), stream.normal(shape=shape), stream.integers(0, 3, shape)):
            assert values.shape == (rows, *shape)
        assert stream.poisson(torch.ones(rows, *shape)).shape == (rows, *shape)
        assert stream.permutation(4).shape == (rows, 4)
    assert len(make(torch.zeros(0, dtype=torch.int64)).parts(3).ahead(2)) == 0


def test_bounds_may_be_tensors():
    low, high = torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [9.0]])
    values = streams(2).uniform(low, high, (1000,))
    unit = streams(2).uniform(shape=(1000,))
    assert torch.equal(values, unit * (high - low) + low)
    std = torch.ones(2, 1, requires_grad=True)
    streams(2).normal(low, std, (10,)).sum().backward()
    torch.testing.assert_close(std.grad, streams(2).normal(shape=(10,)).sum(dim=1, keepdim=True))


def test_parts_agree_with_part():
    draws = make(torch.tensor([3, 8]), torch.tensor([1, 2]))
    together = draws.parts(4).site(2)
    for number in range(4):
        alone = draws.part(number).site(2)
        assert torch.equal(together.coordinates[number::4], alone.coordinates)
        assert torch.equal(together.words(5)[number::4], alone.words(5))


def test_no_two_places_of_a_tree_share_a_site():
    root = make(torch.zeros(1, dtype=torch.int64))
    levels = [root, root.parts(63), root.parts(63).parts(63)]
    sites = torch.cat([level.site(number).coordinates[:, 4] for level in levels for number in range(64)])
    assert len(sites) == 64 * (1 + 63 + 63 * 63)
    assert len(sites.unique()) == len(sites)


def test_deepest_place_fits_its_word():
    deepest = make([0]).part(62).part(62).part(62).part(62)
    assert int(deepest.site(63).coordinates[0, 4]) < 1 << 32
    for deeper in (lambda: deepest.part(0), lambda: deepest.parts(2)):
        with pytest.raises(InputError, match="nested 4 deep"):
            deeper()


def test_phases_and_seeds_have_their_own_keys():
    seeds = [*range(50), 1 << 32, (1 << 32) + 1, (1 << 64) - 1]
    keys = [phase_key(seed, phase) for seed, phase in itertools.product(seeds, Phase)]
    assert len(set(keys)) == len(keys)
    words = [make([1], seed=seed, phase=phase).site(0).words(4) for seed in (0, 1, 1 << 40) for phase in Phase]
    assert len(torch.cat(words).unique()) == 4 * len(words)


def test_phase_key_follows_its_definition():
    seed = 0x0123456789ABCDEF
    zero = torch.tensor(0)
    words = philox((torch.tensor(4), zero, zero, zero), (torch.tensor(0x89ABCDEF), torch.tensor(0x01234567)))
    assert phase_key(seed, Phase.FINAL_VOTE) == (int(words[0]), int(words[1]))


def test_coordinates_are_key_image_query_and_site():
    stream = make([7, 9], torch.tensor([2, 3]), seed=5, phase=Phase.START).part(1).site(6)
    key = phase_key(5, Phase.START)
    assert stream.coordinates.tolist() == [[*key, 7, 2, 2 * 64 + 6], [*key, 9, 3, 2 * 64 + 6]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make([0], seed=-1), r"seed must be in \[0, 2\^64\), got -1"),
        (lambda: make([0], seed=1 << 64), r"seed must be in \[0, 2\^64\)"),
        (lambda: make([-1]), r"images must be in \[0, 2\^32\), got -1 to -1"),
        (lambda: make([0, 1], 1 << 32), r"queries must be in \[0, 2\^32\), got 4294967296"),
        (lambda: make([0.0]), "images must be int64, got torch.float32"),
        (lambda: Draws(0, Phase.START, torch.zeros(2), torch.zeros(3)), r"must both be \[N\], got \[2\] and \[3\]"),
        (lambda: make([0]).site(64), r"site must be in \[0, 64\), got 64"),
        (lambda: make([0]).site(-1), r"site must be in \[0, 64\), got -1"),
        (lambda: make([0]).part(63), r"part must be in \[0, 63\), got 63"),
        (lambda: make([0]).parts(64), r"count of parts must be in \[0, 64\), got 64"),
        (lambda: make([0]).ahead(65), r"count of sites ahead must be in \[0, 65\), got 65"),
        (lambda: streams(1).integers(3, 2), "low <= high and high - low < 2.31, got 3 to 2"),
        (lambda: streams(1).choice([]), "at least one option"),
        (lambda: streams(1).choice([1, 2], weights=[1.0]), "weights must be 2 numbers >= 0"),
        (lambda: streams(1).choice([1, 2], weights=[1.0, -1.0]), "weights must be 2 numbers >= 0"),
        (lambda: streams(1).choice([1, 2], weights=[0, 0]), "weights must be 2 numbers >= 0, not all 0"),
        (lambda: streams(1).choice([1, 2], weights=[1, float("nan")]), "weights must be 2 numbers >= 0"),
        (lambda: streams(2).poisson(torch.ones(3, 4)), r"rate must be \[2, ...\], got \[3, 4\]"),
        (lambda: streams(1).poisson(torch.tensor([[-0.5]])), r"rate must be in \[0, 270336\), got -0.5"),
        (lambda: streams(1).poisson(torch.tensor([[270336.0]])), r"rate must be in \[0, 270336\)"),
        (lambda: streams(1).poisson(torch.tensor([[float("nan")]])), "got nan"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
