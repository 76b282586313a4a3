"""Real photos and where to find real data."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# The tests issue many small operations; two threads bring them nothing, and cost ten times as much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """Eight ImageNet photos: [8, 3, 224, 224] float32 in [0, 1]."""
    folder = Path(find_spec("foolbox").submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))[:8]
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 255


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ImageNette and the CIFAR-10 models, which the project does not ship; tests skip without it."""
    root = Path(os.environ.get("CANNONADE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no ImageNette and CIFAR-10 data: set CANNONADE_SHARED_DATA to their folder")
    return root
