"""Oracles of the restoration transforms: scikit-image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage import restoration

from cannonade.bench.oracles import Image, oracle
from cannonade.transforms.restoration import WaveletDenoising


@oracle(tolerance=1e-6)
def tv_chambolle(image: Image, params: Mapping[str, Any]) -> Image:
    channel_axis = -1 if params["per_channel"] else None
    out: Image = restoration.denoise_tv_chambolle(image, weight=float(params["weight"]), channel_axis=channel_axis)
    return out


# In YCbCr the rounding of the colour transform decides which coefficients count as 0; hard thresholds show it.
@oracle(tolerance=1e-4)
def wavelet_denoising(image: Image, params: Mapping[str, Any]) -> Image:
    settings = {
        "wavelet": WaveletDenoising().wavelets[int(params["wavelet"])],
        "mode": "soft" if params["soft"] else "hard",
        "convert2ycbcr": bool(params["ycbcr"]),
        "channel_axis": -1,
    }
    out: Image = restoration.cycle_spin(
        image,
        restoration.denoise_wavelet,
        max_shifts=int(params["shifts"]),
        workers=1,
        channel_axis=-1,
        func_kw=settings,
    )
    return np.clip(out, 0, 1)


# scikit-image's exp is a table-free approximation, off by up to 3 %: on clean photos the difference is below 1e-4.
@oracle(tolerance=5e-4)
def non_local_means(image: Image, params: Mapping[str, Any]) -> Image:
    sigma = np.array(restoration.estimate_sigma(image, channel_axis=-1))
    settings = {"patch_size": int(params["patch_size"]), "patch_distance": int(params["patch_distance"])}
    strength = float(params["strength"])
    if params["together"]:
        whole = float(sigma.mean())
        if not whole >= 1e-6:
            return image
        out: Image = restoration.denoise_nl_means(image, h=strength * whole, channel_axis=-1, **settings)
        return out
    out = image.copy()
    for channel, own in enumerate(sigma):
        if own >= 1e-6:
            out[..., channel] = restoration.denoise_nl_means(image[..., channel], h=strength * own, **settings)
    return out
