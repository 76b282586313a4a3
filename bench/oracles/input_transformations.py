"""Guo et al.'s transformations with NumPy and Pillow. Masks and choices are drawn from the stream in the parameters."""

from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cannonade.bench.oracles import Image, oracle
from cannonade.bench.oracles.jpeg import round_trip
from cannonade.draws import Stream
from cannonade.transforms.input_transformations import ImageQuilting


def _stream(params: Mapping[str, Any]) -> Stream:
    return Stream(torch.from_numpy(params["stream"])[None])


@oracle(tolerance=1e-5, eight_bit=True)
def bit_depth_reduction(image: Image, params: Mapping[str, Any]) -> Image:
    return np.rint(image * 7) / 7


@oracle(tolerance=1e-5, max_tolerance=1 / 255 + 1e-6, eight_bit=True)
def jpeg(image: Image, params: Mapping[str, Any]) -> Image:
    return round_trip(image, int(params["quality"]))


@oracle(tolerance=1.5e-3)  # both solvers stop short of the minimum
def total_variance_minimisation(image: Image, params: Mapping[str, Any]) -> Image:
    """Another solver of the same problem: split Bregman with red-black Gauss-Seidel (Goldstein and Osher, 2009)."""
    weight, penalty = 0.03, 0.3
    known = _stream(params).bernoulli(0.5, image.shape[:2])[0].double().numpy()[..., None]
    height, width, _ = image.shape
    degree = np.full((height, width, 1), 4.0)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        degree[edge] -= 1
    parity = (np.add.outer(np.arange(height), np.arange(width)) % 2)[..., None]
    z = np.where(known > 0, image, (image * known).sum((0, 1)) / known.sum())
    split, multiplier = np.zeros((2, *z.shape)), np.zeros((2, *z.shape))
    for _ in range(30):
        pull = 2 * known * image
        across, down = penalty * (split - multiplier)
        pull[:, 1:] += across[:, :-1]
        pull[:, :-1] -= across[:, :-1]
        pull[1:] += down[:-1]
        pull[:-1] -= down[:-1]
        for colour in (0, 1):
            near = np.zeros_like(z)
            near[1:] += z[:-1]
            near[:-1] += z[1:]
            near[:, 1:] += z[:, :-1]
            near[:, :-1] += z[:, 1:]
            z = np.where(parity == colour, (pull + penalty * near) / (2 * known + penalty * degree), z)
        total = multiplier.copy()
        total[0, :, :-1] += np.diff(z, axis=1)
        total[1, :-1] += np.diff(z, axis=0)
        norm = np.maximum(np.hypot(*total), 1e-12)
        split = total * (np.maximum(norm - weight / penalty, 0) / norm)
        multiplier = total - split
    return np.clip(z, 0, 1)


@oracle(tolerance=1e-5)
def image_quilting(image: Image, params: Mapping[str, Any]) -> Image:
    bank = ImageQuilting.example["bank"].permute(0, 2, 3, 1).numpy()
    codes = np.rint(bank * np.float32(255)).astype(np.float64)
    height, width, _ = image.shape
    rows, columns = -(-(height - 2) // 3), -(-(width - 2) // 3)
    choice = _stream(params).integers(0, 9, (rows, columns))[0].numpy()
    extended = np.pad(image, ((0, 3 * rows + 2 - height), (0, 3 * columns + 2 - width), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(extended, (5, 5), (0, 1))[::3, ::3].transpose(0, 1, 3, 4, 2)
    targets = np.rint(windows.reshape(-1, 75).astype(np.float32) * np.float32(255)).astype(np.float64)
    distance = ((targets[:, None] - codes.reshape(1, -1, 75)) ** 2).sum(-1)
    nearest = distance.argsort(axis=1, kind="stable").reshape(rows, columns, -1)
    picked = np.take_along_axis(nearest, choice[..., None], -1)[..., 0]
    tiles = codes[picked]
    left = _cheapest(((tiles[:, :-1, :, 3:] - tiles[:, 1:, :, :2]) ** 2).sum(-1))
    up = _cheapest(((tiles[:-1, :, 3:] - tiles[1:, :, :2]) ** 2).sum(-1).swapaxes(-1, -2))
    out = np.zeros_like(extended)
    for row, column in np.ndindex(rows, columns):
        own = np.ones((5, 5), dtype=bool)
        if column:
            own[:, 0] &= left[row, column - 1] == 0
        if row:
            own[0] &= up[row - 1, column] == 0
        target = out[3 * row : 3 * row + 5, 3 * column : 3 * column + 5]
        target[own] = bank[picked[row, column]][own]
    return out[:height, :width]


def _cheapest(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first of the cheapest seams through [..., 5, 2] costs, by trying all of them."""
    paths = np.array([path for path in product(range(2), repeat=5) if all(abs(a - b) <= 1 for a, b in pairwise(path))])
    totals = np.stack([cost[..., np.arange(5), path].sum(-1) for path in paths], axis=-1)
    return np.asarray(paths[totals.argmin(-1)])
