"""Oracles of the window filters: scikit-image."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import filters
from skimage.morphology import disk

from cannonade.bench.oracles import Image, oracle

Plane = NDArray[np.uint8]


@oracle(tolerance=1e-5, max_tolerance=1e-5)
def gaussian_blur(image: Image, params: Mapping[str, Any]) -> Image:
    planes = [
        filters.gaussian(image[:, :, c], sigma=float(params["sigma"][c]), mode="nearest", truncate=4) for c in range(3)
    ]
    return np.stack(planes, axis=-1)


@oracle(tolerance=1e-6, max_tolerance=1e-6, eight_bit=True)
def median_filter(image: Image, params: Mapping[str, Any]) -> Image:
    return _by_channel(image, lambda plane, c: filters.rank.median(plane, disk(params["radius"][c])))


@oracle(tolerance=1e-6, max_tolerance=1e-6, eight_bit=True, floor_output=True)
def mean_filter(image: Image, params: Mapping[str, Any]) -> Image:
    return _by_channel(image, lambda plane, c: filters.rank.mean(plane, disk(params["radius"][c])))


# A mean of n > 1000 pixels may lie within the floor's 1e-3 below a whole number and go up: 1/255, one such pixel in n.
@oracle(tolerance=1e-5, max_tolerance=1.001 / 255, eight_bit=True, floor_output=True)
def mean_bilateral_filter(image: Image, params: Mapping[str, Any]) -> Image:
    radius, s0, s1 = (params[name] for name in ("radius", "s0", "s1"))
    return _by_channel(
        image, lambda plane, c: filters.rank.mean_bilateral(plane, disk(radius[c]), s0=int(s0[c]), s1=int(s1[c]))
    )


def _by_channel(image: Image, function: Callable[[Plane, int], Plane]) -> Image:
    """An 8-bit filter of each channel."""
    eight_bit = np.round(image * 255).astype(np.uint8)
    return np.stack([function(eight_bit[:, :, c], c) for c in range(3)], axis=-1) / 255
