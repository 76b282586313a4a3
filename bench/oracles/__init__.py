"""Independent implementations of the transforms, image by image, with scikit-image, Pillow, SciPy and NumPy.

The tests compare every transform with its oracle, and the bench times it against the same oracle. A module here has the
name of the transform's module in `cannonade.transforms`, and a function in it the name of the transform.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cannonade.transforms.base import REGISTRY

Image = NDArray[np.float64]
Function = Callable[[Image, Mapping[str, Any]], Image]


@dataclass(frozen=True)
class Oracle:
    """An independent transform of one image, and how closely ours must agree with it.

    Attributes:
        function: takes an [H, W, 3] float64 image in [0, 1] and one image's parameters as NumPy values; returns [H, W, 3].
        tolerance: largest mean absolute difference of an image, in units of [0, 1].
        max_tolerance: largest difference of a pixel.
        eight_bit: whether both sides are given the image rounded to multiples of 1/255.
        floor_output: whether our result is compared after ⌊255·out + 1e-3⌋ / 255, as 8-bit filters truncate.
    """

    function: Function
    tolerance: float = 1e-5
    max_tolerance: float = float("inf")
    eight_bit: bool = False
    floor_output: bool = False


def oracle(**settings: Any) -> Callable[[Function], Oracle]:
    """Decorate a function `name(image, params)` to make it the oracle of the transform of that name."""
    return lambda function: Oracle(function, **settings)


def find(name: str) -> Oracle | None:
    """The oracle of a registered transform; None where agreement is of distributions (noise)."""
    module = REGISTRY[name].__module__.replace("cannonade.transforms", "cannonade.bench.oracles")
    if find_spec(module) is None:
        return None
    found: Oracle | None = getattr(import_module(module), name, None)
    return found
