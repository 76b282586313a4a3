"""Torchvision's classifiers by name, with the download replaced: tests need no network."""

from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model

from cannonade.errors import InputError
from cannonade.models import load_model, load_pretrained

DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"
NAME = "shufflenet_v2_x0_5"


def test_own_weights_with_own_preprocessing(monkeypatch):
    state = get_model(NAME).state_dict()
    asked = []
    monkeypatch.setattr(DOWNLOAD, lambda url, *_, **__: asked.append(url) or state)
    classifier = load_model(NAME)
    assert asked[0].startswith("https://download.pytorch.org/models/shufflenetv2_x0.5")
    assert (classifier.num_classes, classifier.input_size, classifier.name) == (1000, (224, 224), NAME)
    assert classifier.class_names[0] == "tench"
    torch.testing.assert_close(classifier.network.mean.flatten(), torch.tensor((0.485, 0.456, 0.406)))
    torch.testing.assert_close(classifier.network.std.flatten(), torch.tensor((0.229, 0.224, 0.225)))


def test_without_a_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(DOWNLOAD, refuse)
    with pytest.raises(
        InputError, match=r"could not be fetched from https://.*no route to host.*--weights FILE"
    ) as error:
        load_model(NAME)
    assert "\n" not in str(error.value)


def test_weights_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, None)
    torch.save(get_model(NAME, num_classes=6).state_dict(), tmp_path / "six.pth")
    classifier = load_model(NAME, weights=tmp_path / "six.pth", num_classes=6)
    assert (classifier.num_classes, classifier.class_names) == (6, None)
    with pytest.raises(InputError, match=r"of another shape: fc\.weight \[6, 1024\] instead of \[1000, 1024\]"):
        load_model(NAME, weights=tmp_path / "six.pth")
    with pytest.raises(InputError, match="has 1000 classes, got num_classes=6: pass weights=FILE too"):
        load_model(NAME, num_classes=6)


def test_googlenet_from_a_file_is_googlenet_from_the_network(tmp_path, monkeypatch):
    """Its published weights expect another normalisation, which the module applies only when told."""
    state = get_model("googlenet", aux_logits=True, init_weights=False).state_dict()
    torch.save(state, tmp_path / "googlenet.pth")
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: state)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fetched = load_pretrained("googlenet").module.eval()
    local = load_pretrained("googlenet", weights=tmp_path / "googlenet.pth").module.eval()
    with torch.no_grad():
        assert torch.equal(fetched(images), local(images))
