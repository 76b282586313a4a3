"""Oracles of the geometric transforms: scikit-image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage import transform

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def rotation(image: Image, params: Mapping[str, Any]) -> Image:
    out: Image = transform.rotate(image, float(params["degrees"]), order=1, mode="constant", cval=0)
    return out


@oracle(tolerance=1e-5)
def random_resize_pad(image: Image, params: Mapping[str, Any], pad: int = 256, fill: float = 0.0) -> Image:
    """RandomResizePad with interpolation="nearest"; not found by its name, since its result has another size."""
    side, top, left = (int(params[name]) for name in ("side", "top", "left"))
    rows, columns = (np.arange(side) * length // side for length in image.shape[:2])
    out = np.full((pad, pad, 3), fill)
    out[top : top + side, left : left + side] = image[rows][:, columns]
    return out


@oracle(tolerance=1e-5)
def random_crop_rescale(image: Image, params: Mapping[str, Any]) -> Image:
    top, left, height, width = (int(params[name]) for name in ("top", "left", "height", "width"))
    crop = image[top : top + height, left : left + width]
    out: Image = transform.resize(crop, image.shape[:2], order=1, mode="edge")
    return out
