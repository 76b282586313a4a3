"""Timing and memory of a call, and the comparison that comes before them."""

import pytest
import torch

from cannonade.bench import transforms
from cannonade.bench.oracles import Oracle
from cannonade.bench.timing import Timing, coverage, interleaved, peak_growth, skipped_at_each_end


def test_cases_are_called_in_turn():
    calls = []
    timed = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert calls == ["a", "b"] * 4
    assert timed["a"].quartiles[0] <= timed["a"].median <= timed["a"].quartiles[1]


def test_a_case_may_follow_itself():
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warmup=0, settle=True)
    assert calls == ["a", "a", "b", "b"] * 2


def test_a_slow_minute_changes_no_ratio():
    slow = torch.tensor([1.0, 1.1, 9.0, 5.0, 1.0])
    ratio = Timing(tuple((2 * slow).tolist())).over(Timing(tuple(slow.tolist())), scale=3.0)
    assert (ratio.median, *ratio.interval) == pytest.approx((6, 6, 6))


@pytest.mark.parametrize(
    ("rounds", "skipped", "share"), [(1, 0, 0), (3, 0, 0.75), (5, 0, 0.9375), (8, 1, 0.9297), (20, 6, 0.8847)]
)
def test_an_interval_holds_the_median_as_often_as_it_says(rounds, skipped, share):
    """Off by 4 standard errors of 40,000 draws with probability 6e-5; a rank too far in or out moves it by more."""
    assert coverage(rounds, skipped) == pytest.approx(share, abs=1e-4)
    assert skipped_at_each_end(rounds) == (5 if rounds == 20 else skipped)
    figures = torch.randn(40_000, rounds, generator=torch.Generator().manual_seed(0)).exp().sort(1).values
    held = (figures[:, skipped] < 1) & (figures[:, -1 - skipped] > 1)
    assert abs(float(held.double().mean()) - share) <= 4 * (share * (1 - share) / 40_000) ** 0.5 + 1e-4


def test_peak_growth_sees_what_is_allocated():
    growth = peak_growth(lambda: torch.zeros(50_000_000).add_(1))
    if growth is None:
        pytest.skip("Linux's counters of memory are not to be had")
    assert 150e6 < growth < 400e6


def test_a_row_is_measured_and_a_wrong_transform_is_not_timed(photos, monkeypatch):
    crops = photos[:2, :, 60:92, 60:92]
    (row,) = transforms.measure(crops, ["swirl"], batch=4, draws=1, rounds=1)
    assert row.ratio > 0
    assert row.clean.mean < 1e-5
    monkeypatch.setattr(transforms, "find", lambda name: Oracle(lambda image, params: image))
    with pytest.raises(ValueError, match="swirl differs from its oracle"):
        list(transforms.measure(crops, ["swirl"], batch=4, draws=1, rounds=1))
