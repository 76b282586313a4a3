"""The GPU check says so where there is no GPU; what it compares is run here on the CPU against itself."""

import pytest
import torch

from cannonade.bench.gpu_check import check_transforms, main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_nothing_was_checked(capsys):
    assert main() == 2
    assert "nothing was checked" in capsys.readouterr().out


def test_transforms_equal_themselves(photos):
    results = list(check_transforms(photos[:2, :, 60:100, 60:100], torch.device("cpu")))
    assert len(results) >= 38
    assert all(passed for _, passed, _ in results), results
