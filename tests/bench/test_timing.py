"""Timing and memory of a call, and the comparison that comes before them."""

import pytest
import torch

from cannonade.bench import transforms
from cannonade.bench.oracles import Oracle
from cannonade.bench.timing import interleaved, peak_growth


def test_cases_are_called_in_turn():
    calls = []
    timed = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert calls == ["a", "b"] * 4
    assert timed["a"].quartiles[0] <= timed["a"].median <= timed["a"].quartiles[1]


def test_a_case_may_follow_itself():
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warmup=0, settle=True)
    assert calls == ["a", "a", "b", "b"] * 2


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
