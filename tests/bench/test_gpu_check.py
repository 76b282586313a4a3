"""The GPU check says so where there is no GPU; what it compares is run here on the CPU against itself."""

import time

import pytest
import torch

from cannonade.bench import gpu_check
from cannonade.bench.gpu_check import check_loader, check_peers, check_roofline, check_transforms, main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_nothing_was_checked(capsys):
    assert main() == 2
    assert "nothing was checked" in capsys.readouterr().out


def test_transforms_equal_themselves(photos):
    results = list(check_transforms(photos[:2, :, 60:100, 60:100], torch.device("cpu")))
    assert len(results) >= 38
    assert all(passed for _, passed, _ in results), results


def test_a_broken_part_is_a_failed_check():
    def part():
        yield "first", True, "figures"
        raise RuntimeError("no such kernel\nand more")

    now = time.monotonic()
    assert list(gpu_check._guarded("part", part, now)) == [
        ("first", True, "figures"),
        ("part", False, "RuntimeError: no such kernel"),
    ]
    assert [passed for _, passed, _ in gpu_check._guarded("part", part, now - 1000)] == [False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other libraries'
def test_timed_parts_run(photos, monkeypatch):
    """Each timed once, on small images and the CPU."""
    monkeypatch.setattr(gpu_check, "_seconds", lambda case: (case(), 1.0)[1])
    small = photos[:1, :, 90:122, 90:122]
    device = torch.device("cpu")
    assert len(list(check_roofline(small, device, 1024))) == 26
    assert all(passed for _, passed, _ in check_peers(small, device))
    assert all(passed for _, passed, _ in check_loader(device))
