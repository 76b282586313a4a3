"""What the bench of transforms makes of its rows."""

import pytest
import torch

from cannonade.bench.transforms import Row, expected_cost, mean_ratio, without_native_code
from cannonade.defenses.bart import BaRT
from cannonade.kernels.backend import choose


def row(name, forward=1.0, ratio=2.0):
    return Row(name, None, None, None, forward, 3 * forward, (0.0, 0.0), 4.0, ratio, (ratio, ratio), None)


def test_expected_cost_is_that_of_k_equal_steps():
    rows = [row(member.name) for member in BaRT().members]
    assert expected_cost(rows) == pytest.approx((5, 15))
    assert expected_cost(rows, k=10) == pytest.approx((10, 30))
    assert expected_cost(rows[1:]) is None
    # The only member of its group is drawn by every second program of five steps.
    dear = [row(entry.name, 1001.0 if entry.name == "swirl" else 1.0) for entry in rows]
    assert expected_cost(dear)[0] == pytest.approx(505)


def test_mean_ratio_is_of_single_transforms():
    assert mean_ratio([row("swirl", ratio=2), row("jpeg_noise", ratio=8), row("bart", ratio=100)]) == pytest.approx(4)
    assert mean_ratio([row("bart")]) is None


@pytest.mark.native
def test_without_native_code():
    tensor = torch.zeros(1)
    with without_native_code():
        assert choose("auto", tensor, native=True) == "torch"
    assert choose("auto", tensor, native=True) == "native"
