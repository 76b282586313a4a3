"""Oracles of BaRT's group 7: scikit-image's colour spaces."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from skimage import color

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def hsv_shift(image: Image, params: Mapping[str, Any]) -> Image:
    return np.asarray(color.hsv2rgb(np.clip(color.rgb2hsv(image) + params["shift"], 0, 1)))


@oracle(tolerance=1e-5)
def lab_shift(image: Image, params: Mapping[str, Any]) -> Image:
    lab = color.rgb2lab(image) + params["shift"]
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB")  # negative Z, clipped there as here
        return np.asarray(color.lab2rgb(lab))


@oracle(tolerance=1e-5)
def xyz_shift(image: Image, params: Mapping[str, Any]) -> Image:
    return np.asarray(color.xyz2rgb(np.clip(color.rgb2xyz(image) + params["shift"], 0, 1)))


@oracle(tolerance=1e-5)
def yuv_shift(image: Image, params: Mapping[str, Any]) -> Image:
    yuv = color.rgb2yuv(image) + params["shift"]
    yuv[..., 0] = np.clip(yuv[..., 0], 0, 1)
    return np.asarray(color.yuv2rgb(yuv)).clip(0, 1)
