"""Oracle of the block-wise DCT quantisation: SciPy, block by block."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.fft import dctn, idctn

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-6)
def dct(image: Image, params: Mapping[str, Any]) -> Image:
    height, width = image.shape[:2]
    pad = [(-side % 8 // 2, -side % 8 - -side % 8 // 2) for side in (height, width)]
    padded = np.pad(image, [*pad, (0, 0)])
    steps = np.full((8, 8), 30.0)
    steps[:4, :4] = 25
    for top in range(0, padded.shape[0], 8):
        for left in range(0, padded.shape[1], 8):
            for channel in range(3):
                place = (slice(top, top + 8), slice(left, left + 8), channel)
                coefficients = np.round(dctn(255 * padded[place], norm="ortho") / steps) * steps
                padded[place] = idctn(coefficients, norm="ortho") / 255
    inside: Image = padded[pad[0][0] : pad[0][0] + height, pad[1][0] : pad[1][0] + width]
    return np.clip(inside, 0, 1)
