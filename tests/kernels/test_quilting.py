"""Quilting: the nearest patches, the cheapest seam, and tiles that fit any image."""

from itertools import pairwise, product

import pytest
import torch

from cannonade.kernels.quilting import _seam, nearest_patches, quilt, tile_counts


def random_patches(count, size=5, seed=0):
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)) / 255


@pytest.mark.parametrize("size", [5, 8])
def test_nearest_patches_against_all_distances(size):
    bank, queries = random_patches(40, size), random_patches(23, size, seed=1)
    codes, targets = (bank * 255).round().long(), (queries * 255).round().long()
    distance = (targets[:, None] - codes).square().sum((-1, -2, -3))
    assert torch.equal(nearest_patches(queries, bank, 7), distance.argsort(dim=1, stable=True)[:, :7])


def test_ties_go_to_the_smaller_index():
    bank = random_patches(4).repeat(3, 1, 1, 1)
    assert nearest_patches(bank[:4], bank, 3).tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_seam_is_the_cheapest_path(overlap):
    cost = torch.randint(4, (50, 6, overlap), generator=torch.Generator().manual_seed(2))
    paths = [p for p in product(range(overlap), repeat=6) if all(abs(a - b) <= 1 for a, b in pairwise(p))]
    for case, found in zip(cost, _seam(cost), strict=True):
        totals = [sum(int(case[row, column]) for row, column in enumerate(path)) for path in paths]
        assert tuple(found.tolist()) == paths[totals.index(min(totals))]


@pytest.mark.parametrize(("size", "overlap"), [(5, 2), (5, 1), (6, 3), (4, 2)])
@pytest.mark.parametrize("shape", [(17, 31), (16, 16), (20, 23)], ids=str)
def test_an_image_whose_tiles_are_in_the_bank_comes_back(size, overlap, shape):
    x = torch.randint(256, (1, 3, *shape), generator=torch.Generator().manual_seed(3)) / 255
    rows, columns = tile_counts(x.shape, size, overlap)
    stride = size - overlap
    extended = torch.nn.functional.pad(x, (0, size, 0, size), mode="replicate")
    bank = extended.unfold(2, size, stride).unfold(3, size, stride)[0, :, :rows, :columns]
    bank = bank.permute(1, 2, 0, 3, 4).flatten(0, 1)
    choice = torch.zeros(1, rows, columns, dtype=torch.int64)
    assert torch.equal(quilt(x, bank, choice, 1, overlap), x)


def test_batch_equals_single_images_and_values_are_the_banks():
    bank = random_patches(50)
    x = torch.rand(3, 3, 17, 31, generator=torch.Generator().manual_seed(4))
    choice = torch.randint(10, (3, *tile_counts(x.shape, 5, 2)), generator=torch.Generator().manual_seed(5))
    out = quilt(x, bank, choice, 10, 2)
    assert out.shape == x.shape
    assert torch.isin(out, bank).all()
    for row in range(3):
        assert torch.equal(quilt(x[row : row + 1], bank, choice[row : row + 1], 10, 2)[0], out[row])
    assert torch.equal(quilt(x.to(memory_format=torch.channels_last), bank, choice, 10, 2), out)
    assert quilt(x[:0], bank, choice[:0], 10, 2).shape == (0, 3, 17, 31)
