"""Steps, sums over draws and counts on Triton."""

import pytest
import torch

from cannonade.kernels.steps import add_draws_, linf_step
from cannonade.kernels.votes import count_votes_

pytestmark = pytest.mark.interpreter


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "first"), [(7, 0), (7, 4), (2, 2), (1, 11), (0, 3)])
def test_draws_are_added_in_order(device, rows, first):
    values = numbers(3, 17, rows, 31).permute(2, 0, 1, 3).to(device)  # not contiguous
    expected = numbers(3, 3, 17, 31, seed=1).to(device)
    total = expected.clone()
    add_draws_(expected, values, first, backend="torch")
    add_draws_(total, values, first, backend="triton")
    assert torch.equal(total, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_linf_step(device, dtype):
    images = numbers(3, 3, 17, 31).sigmoid().to(device, dtype)
    points = (images + numbers(3, 3, 17, 31, seed=1).to(device, dtype) * 0.05).clamp(0, 1).mT.contiguous().mT
    direction = numbers(1, 3, 17, 31, seed=2).to(device, dtype).sign().expand(3, -1, -1, -1)
    expected = linf_step(*(x.float() for x in (points, images, direction)), 0.0125, 8 / 255, backend="torch")
    ours = linf_step(points, images, direction, 0.0125, 8 / 255, backend="triton")
    if dtype == torch.bfloat16:  # the interpreter cuts bits off where a GPU rounds
        torch.testing.assert_close(ours.float(), expected, rtol=0, atol=torch.finfo(dtype).eps)
    else:
        assert torch.equal(ours, expected.to(dtype))


@pytest.mark.parametrize("classes", [2, 10, 1500])
def test_votes_are_counted(device, classes):
    logits = numbers(9, classes).round(decimals=1).to(device)  # with ties
    rows = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3], device=device)
    expected = torch.full((4, classes), 5, device=device)
    counts = expected.clone()
    for row, label in zip(rows, (logits == logits.amax(1, keepdim=True)).int().argmax(1), strict=True):
        expected[row, label] += 1
    count_votes_(counts, rows, logits, backend="triton")
    assert torch.equal(counts, expected)
