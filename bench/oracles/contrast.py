"""Oracles of BaRT's group 8: scikit-image's exposure and NumPy's percentiles."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage import exposure

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-3)
def histogram_equalisation(image: Image, params: Mapping[str, Any]) -> Image:
    channels = [
        channel if np.ptp(channel) == 0 else exposure.equalize_hist(channel, nbins=int(bins))
        for channel, bins in zip(np.moveaxis(image, 2, 0), params["bins"], strict=True)
    ]
    return np.stack(channels, axis=2)


@oracle(tolerance=1e-4)
def adaptive_histogram_equalisation(image: Image, params: Mapping[str, Any]) -> Image:
    kernels = list(zip(params["rows"].tolist(), params["columns"].tolist(), strict=True))
    limits = params["clip_limit"].tolist()
    if not params["per_channel"]:
        if np.ptp(image.max(2)) == 0:
            return image
        return np.asarray(exposure.equalize_adapthist(image, kernel_size=kernels[0], clip_limit=limits[0]))
    channels = [
        channel if np.ptp(channel) == 0 else exposure.equalize_adapthist(channel, kernel_size=kernel, clip_limit=limit)
        for channel, kernel, limit in zip(np.moveaxis(image, 2, 0), kernels, limits, strict=True)
    ]
    return np.stack(channels, axis=2)


@oracle(tolerance=1e-5)
def contrast_stretching(image: Image, params: Mapping[str, Any]) -> Image:
    channels = []
    for channel, low, high in zip(np.moveaxis(image, 2, 0), params["low"], params["high"], strict=True):
        percentiles = np.percentile(channel, [100 * float(low), 100 * float(high)])
        channels.append(exposure.rescale_intensity(channel, in_range=tuple(percentiles.tolist())))
    return np.stack(channels, axis=2)
