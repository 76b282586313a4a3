"""Oracle of swirl: scikit-image."""

from collections.abc import Mapping
from typing import Any

from skimage import transform

from cannonade.bench.oracles import Image, oracle


@oracle(tolerance=1e-5)
def swirl(image: Image, params: Mapping[str, Any]) -> Image:
    out: Image = transform.swirl(
        image,
        center=(int(params["x"]), int(params["y"])),
        strength=float(params["strength"]),
        radius=int(params["radius"]),
        order=1,
        mode="reflect",
    )
    return out
