"""The simulation of a shared run: what must hold whatever the numbers are."""

import pytest

from cannonade.bench.cluster import Cluster, Costs, measure_costs, simulate, table
from cannonade.errors import InputError

COSTS = Costs(look=1e-5, claim=1e-4, finish=1e-3, check=1e-3)


def test_one_worker_computes_all_the_time():
    cluster = Cluster(images=80, gradients=100, batch=8, workers=1, rate=100, spread=0, deaths=0)
    course = simulate(cluster, COSTS)
    assert course.claims == 10
    assert course.refused == course.again == 0
    assert course.seconds == pytest.approx(10 * (8 + 1e-3 + 1e-5 + 1e-4), rel=1e-4)
    assert course.busy == pytest.approx(80 / course.seconds)
    assert course.waited == 0


def test_the_dead_are_replaced_and_everything_is_done():
    cluster = Cluster(images=400, gradients=100, batch=4, workers=10, rate=100, deaths=3)
    course = simulate(cluster, COSTS)
    assert course.again == 3
    assert course.claims - course.refused == cluster.batches + 3
    alone = simulate(Cluster(images=400, gradients=100, batch=4, workers=10, rate=100, deaths=0), COSTS)
    assert 40 < alone.seconds < course.seconds < 100


def test_a_slow_lock_is_seen():
    """Lines that take as long as a hundredth of a batch, for two hundred workers: the lock is the bottleneck."""
    cluster = Cluster(images=2000, gradients=100, batch=1, workers=200, rate=100, deaths=0, latency=0.01)
    course = simulate(cluster, COSTS)
    assert course.lock > 0.8
    assert course.busy < 0.6
    assert course.waited > 0.5


def test_costs_are_those_of_a_real_directory(tmp_path):
    costs = measure_costs(Cluster(batch=2, side=8), tmp_path, repetitions=5)
    assert 0 < costs.look < costs.finish
    assert costs.claim > 0
    assert costs.check > 0
    assert not list(tmp_path.iterdir())
    small = Cluster(images=40, batch=2, workers=3, deaths=1)
    assert "| batches | 20 |" in table([(small, simulate(small, costs))])


def test_refusals():
    with pytest.raises(InputError, match="deaths must be in 0 … 9, of 10 workers, got 10"):
        Cluster(workers=10, deaths=10)
    with pytest.raises(InputError, match="batch must be positive, got 0"):
        Cluster(batch=0)
