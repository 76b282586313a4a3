"""Oracles of zoom: scikit-image, and seams carved one by one in NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import color, filters, transform

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def random_zoom(image: Image, params: Mapping[str, Any]) -> Image:
    above, below, left, right = (int(margin) for margin in params["margins"])
    height, width = image.shape[:2]
    crop = image[above : height - below, left : width - right]
    out: Image = transform.resize(crop, (height, width), order=1)
    return out


@oracle(tolerance=1e-5)
def seam_carving_expansion(image: Image, params: Mapping[str, Any]) -> Image:
    carved = _carved(image, int(params["vertical"]))
    carved = _carved(carved.transpose(1, 0, 2), int(params["horizontal"])).transpose(1, 0, 2)
    out: Image = transform.resize(carved, image.shape[:2], order=1)
    return out


def _carved(image: Image, seams: int) -> Image:
    # Multiples of 2^-30 add exactly. Without them, equal seams of 8-bit photos differ by the machine's rounding.
    energy: NDArray[np.float64] = filters.sobel(color.rgb2gray(image)) * 2.0**30
    energy = energy.round()
    for _ in range(seams):
        height, width = image.shape[:2]
        cost = np.pad(energy, ((0, 0), (1, 1)), constant_values=np.inf)
        for row in range(1, height):
            above = cost[row - 1]
            cost[row, 1:-1] += np.minimum(np.minimum(above[:-2], above[1:-1]), above[2:])
        keep = np.ones((height, width), dtype=bool)
        column = int(np.argmin(cost[-1, 1:-1]))
        for row in range(height - 1, -1, -1):
            keep[row, column] = False
            if row:
                column += int(np.argmin(cost[row - 1, column : column + 3])) - 1
        energy = energy[keep].reshape(height, width - 1)
        image = image[keep].reshape(height, width - 1, 3)
    return image
