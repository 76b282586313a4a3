"""BaRT group 2 with Pillow (libjpeg-turbo)."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image

from cannonade.bench.oracles import Image, oracle


def round_trip(image: Image, quality: int) -> Image:
    """Save ⌊255·x⌋ (in the float32 of the attacked image) as JPEG in memory and open it again."""
    eight_bit = (image.astype(np.float32) * np.float32(255)).astype(np.uint8)
    file = BytesIO()
    PIL.Image.fromarray(eight_bit).save(file, format="jpeg", quality=quality)
    return np.asarray(PIL.Image.open(file)).astype(np.float64) / 255


@oracle(tolerance=1e-5, max_tolerance=1 / 255 + 1e-6, eight_bit=True)
def jpeg_noise(image: Image, params: Mapping[str, Any]) -> Image:
    return round_trip(image, int(params["quality"]))
