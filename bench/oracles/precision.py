"""Oracle of colour precision reduction: NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def colour_precision_reduction(image: Image, params: Mapping[str, Any]) -> Image:
    out: Image = np.round(image * params["scale"]) / params["scale"]
    return out
