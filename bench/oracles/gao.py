"""Oracles of the filters of `bart_gao`: SciPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5, max_tolerance=1e-5)
def gao_gaussian_blur(image: Image, params: Mapping[str, Any]) -> Image:
    for axis, (side, sigma) in enumerate(zip(params["sides"], params["sigma"], strict=True)):
        half = int(side) // 2
        weights = np.exp(-0.5 * (np.arange(-half, half + 1) / float(sigma)) ** 2)
        image = ndimage.correlate1d(image, weights / weights.sum(), axis=axis, mode="mirror")
    return image


@oracle(tolerance=1e-7, max_tolerance=1e-7)
def gao_median_filter(image: Image, params: Mapping[str, Any]) -> Image:
    height, width = (int(side) for side in params["sides"])
    out: Image = ndimage.median_filter(image, size=(height, width, 1), mode="constant", cval=0)
    return out
