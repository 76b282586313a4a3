"""What the tests of the benches share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures each, as files."""
    y, x = np.mgrid[0:60, 0:60] / 60
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture = (255 * np.stack((x, y, np.sin(9 * x * (number + 1)) ** 2), axis=2)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{number}.jpg")
    return tmp_path
