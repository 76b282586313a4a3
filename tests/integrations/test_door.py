"""The door of the adapters: versions, missing frameworks, and what our attacks can be called on."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import evaluate_batch
from cannonade.integrations import door
from cannonade.integrations.arrays import transform_array
from cannonade.integrations.door import as_defended, framework, with_fields
from cannonade.integrations.judging import judge
from cannonade.integrations.robustbench import benchmark
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote

FRAMEWORKS = (
    "torchattacks",
    "foolbox",
    "eagerpy",
    "art",
    "autoattack",
    "pyautoattack",
    "adv_lib",
    "secmlt",
    "robustbench",
)


def test_importing_the_package_imports_no_framework():
    modules = ["cannonade.integrations", "cannonade.cli.app", "cannonade.integrations.door"]
    modules += [
        f"cannonade.integrations.{name}" for name in ("adv_lib", "arrays", "autoattack", "judging", "robustbench")
    ]
    code = f"import sys; {'; '.join(f'import {name}' for name in modules)}; print(sorted(set({FRAMEWORKS}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("installed", ["3.5.0", "3.6", "4"])
def test_an_untested_version_warns_once(installed, monkeypatch):
    door._check_version.cache_clear()
    monkeypatch.setattr(door, "version", lambda _: installed)
    with pytest.warns(UserWarning, match=rf"torchattacks {installed} is installed.* tested with 3\.5\.1"):
        framework("torchattacks", "torchattacks", "3.5.1", "3.5.1")
    framework("torchattacks", "torchattacks", "3.5.1", "3.5.1")  # another warning would be an error
    door._check_version.cache_clear()


def test_versions_between_pass(monkeypatch):
    for installed in ("1.20", "1.20.0", "1.20.1"):
        door._check_version.cache_clear()
        monkeypatch.setattr(door, "version", lambda _, installed=installed: installed)
        framework("json", "json", "1.20", "1.20.1")
    door._check_version.cache_clear()


def test_a_missing_framework_says_what_to_install():
    with pytest.raises(
        InputError, match=r"needs no-such 1.0, but no_such_module is not installed: pip install no-such"
    ):
        framework("no_such_module", "no-such", "1.0", "1.0")


def test_what_our_attacks_are_called_on(defended, net, images):
    assert as_defended(defended) is defended
    assert as_defended(torch.compile(defended, backend="eager")) is defended
    plain = as_defended(net, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert isinstance(plain.defense, Identity)
    torch.testing.assert_close(plain(images), net((images - 0.5) / 0.2))
    classifier = Classifier(net, input_size=(8, 8))
    assert as_defended(classifier).classifier is classifier
    with pytest.raises(InputError, match="handed over itself, got it inside Sequential"):
        as_defended(nn.Sequential(nn.Identity(), defended))
    with pytest.raises(InputError, match=r"give mean and std to Classifier\(module"):
        as_defended(defended, mean=(0.5, 0.5, 0.5))


def test_unknown_fields_are_named():
    assert with_fields(AutoPGD(), eps=0.1) == AutoPGD(eps=0.1)
    with pytest.raises(InputError, match="AutoPGD has no step_size to set; it has eps, steps"):
        with_fields(AutoPGD(), step_size=0.1)


def test_judging(defended, images, labels):
    judged = judge(defended, images, labels, votes=40)
    votes = majority_vote(defended, images, 40)
    assert torch.equal(judged.votes.counts, votes.counts)
    assert torch.equal(judged.success, votes.labels != labels)
    assert torch.equal(judged.once, majority_vote(defended, images, 1).labels != labels)
    assert torch.equal(judged.lucky, judged.once & ~judged.success)
    assert judged.lucky.any(), "noise alone fools one prediction"
    hit = judge(defended, images, labels, votes=40, targeted=True)
    assert torch.equal(hit.success, ~judged.success)


def test_judging_checks_the_ball_and_forgives_rounding(defended, images, labels):
    moved = (images + 0.05).clamp(0, 1)
    judge(defended, moved, labels, votes=1, originals=images, eps=0.05)
    with pytest.raises(InputError, match=r"within 0.04 of the originals in linf, got 0.05"):
        judge(defended, moved, labels, votes=1, originals=images, eps=0.04)
    edge = images.clone()
    edge[0, 0, 0, 0] = 1 + 1e-6
    judge(defended, edge, labels, votes=1)
    edge[0, 0, 0, 0] = 1.01
    with pytest.raises(InputError, match=r"images must be in \[0, 1\]"):
        judge(defended, edge, labels, votes=1)


def test_benchmark_is_an_evaluation_by_vote(shrinking):
    """Clean and robust accuracy on the sample photos, as `evaluate_batch` has them."""
    defended, images, labels, ids = shrinking
    attack = AutoPGD(steps=2, gradient=EOT(samples=2))
    clean, robust = benchmark(defended, 20, eps=0.2, batch_size=8, votes=15, attack=attack)
    outcome = evaluate_batch(defended, images, labels, with_fields(attack, eps=0.2), votes=15, ids=ids)
    right, broken = len(outcome.attacked), int(outcome.success.sum())
    assert 0 < broken < right
    assert (clean, robust) == (right / 20, (right - broken) / 20)
    for settings, words in (
        ({"threat_model": "linf", "eps": 0.1}, "one of Linf, L2, L1"),
        ({"n_examples": 0, "eps": 0.1}, "at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            benchmark(defended, **settings)


@pytest.fixture
def shrinking():
    """A net that knows the sample photos' labels by their mean colours, behind noise; and those photos at 16 pixels."""
    from cannonade.data.sources import open_source

    source = open_source("samples")
    images = source.load(source.items, (16, 16))
    labels = torch.tensor([item.label for item in source.items])
    features = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
    linear = nn.Linear(features.shape[1], 1000)
    linear.weight.data.zero_()
    linear.bias.data.fill_(-1e3)
    linear.weight.data[labels] = 20 * features  # −10·|x − feature|², but for what all classes share
    linear.bias.data[labels] = -10 * features.square().sum(1)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), linear)
    defended = DefendedClassifier(Classifier(net, input_size=(16, 16)), Smoothing(sigma=0.3), seed=2)
    return defended, images, labels, torch.tensor([item.id for item in source.items])


@pytest.mark.parametrize("name", ["rotation(degrees=90)", "bart(k=3)"])
def test_arrays_in_and_out(name):
    """NumPy's arrays speak DLPack and the array API as JAX's and CuPy's do."""
    defense = build_defense(name)
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    draws = Draws(seed=5, phase=Phase.FORWARD, images=torch.tensor([4, 9, 2]), queries=torch.full((3,), 7))
    expected = defense(images, draws)
    found = transform_array(defense, images.numpy(), seed=5, ids=[4, 9, 2], query=7)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, expected.numpy())
    narrow = np.array([4, 9, 2], dtype=np.int32)
    assert torch.equal(transform_array(defense, images, seed=5, ids=narrow, query=7), expected)


class Other:
    """An array of a library that exports DLPack and knows no array API."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **settings):
        return self.tensor.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def test_other_arrays_and_refusals():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = transform_array(Identity(), Other(images))
    assert torch.equal(found, images)
    assert found.data_ptr() == images.data_ptr(), "nothing is copied"
    with pytest.raises(InputError, match=r"must have __dlpack__.*got list"):
        transform_array(Identity(), [1.0])
    swapped = images.numpy().astype(">f4")
    with pytest.raises(InputError, match="copy it first"):
        transform_array(Identity(), swapped)
    with pytest.raises(InputError, match=r"ids must be 2 integers, one for each image, got \[1\]"):
        transform_array(Identity(), images, ids=[1])
    with pytest.raises(InputError, match="RGB floats"):
        transform_array(Identity(), np.zeros((2, 8, 8, 3), dtype=np.float32))
