"""Oracles of BaRT's group 9: the mixes written out in NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def grey_scale_mix(image: Image, params: Mapping[str, Any]) -> Image:
    grey = np.average(image, axis=2, weights=params["weights"])
    return np.stack([grey, grey, grey], axis=2)


@oracle(tolerance=1e-5)
def grey_scale_partial_mix(image: Image, params: Mapping[str, Any]) -> Image:
    grey = np.average(image, axis=2, weights=params["weights"])[..., None]
    return np.asarray(params["kept"] * image + (1 - params["kept"]) * grey)


@oracle(tolerance=1e-5)
def two_thirds_grey_scale_mix(image: Image, params: Mapping[str, Any]) -> Image:
    others = [channel for channel in range(3) if channel != params["channel"]]
    out = image.copy()
    out[..., others] = np.average(image[..., others], axis=2, weights=params["weights"])[..., None]
    return out


@oracle(tolerance=1e-5)
def one_channel_partial_grey(image: Image, params: Mapping[str, Any]) -> Image:
    others = [channel for channel in range(3) if channel != params["channel"]]
    mix = np.average(image[..., others], axis=2, weights=params["weights"])
    out = image.copy()
    out[..., params["channel"]] = params["share"] * mix + (1 - params["share"]) * image[..., params["channel"]]
    return out
