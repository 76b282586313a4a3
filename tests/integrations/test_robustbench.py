"""RobustBench's own functions on our classifiers, and our `benchmark` beside its own."""

import sys
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.integrations.robustbench import benchmark
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

EPS = 0.013

# What RobustBench 1.1.1 imports at once and its evaluation never uses: the models and downloads of its leaderboard, tables of
# corruptions, and setuptools before 81.
UNUSED = ("timm", "gdown", "pandas", "pkg_resources")


@pytest.fixture(scope="module")
def robustbench():
    """The package, without its zoo of models, which needs timm 1.0.9 and downloads."""
    zoo = ModuleType("robustbench.model_zoo.models")
    zoo.model_dicts = {}
    stand_ins = {name: ModuleType(name) for name in UNUSED}
    stand_ins |= {zoo.__name__: zoo, "autoattack": their_autoattack()}
    stand_ins["autoattack.state"] = import_module("pyautoattack.state")
    with pytest.MonkeyPatch.context() as patch:  # only while it is imported
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        found = import_module("robustbench.eval")
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        del sys.modules[name]


def their_autoattack():
    """RobustBench requires pyautoattack and still imports it by the old name and calls it by the old signature."""
    import pyautoattack

    class AutoAttack(pyautoattack.AutoAttack):
        def __init__(self, model, norm, eps, version, device, log_path):
            super().__init__(model, norm=norm, eps=eps, version=version, device=device, seed=0)
            self.apgd.n_restarts = self.fab.n_restarts = 1
            self.square.n_queries = 100  # so that the tests are quick

        def run_standard_evaluation(self, x, y, bs, state_path):
            return super().run_standard_evaluation(x, y, batch_size=bs, state_path=state_path)[0]

    module = ModuleType("autoattack")
    module.AutoAttack = AutoAttack
    return module


@pytest.fixture(scope="module")
def linear():
    """Two of ten classes by the mean colours of four parts: how far an image is from the other has a closed form."""
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 10))
    generator = torch.Generator().manual_seed(0)
    net[2].weight.data = torch.randn(10, 12, generator=generator)
    net[2].bias.data = -net[2].weight.data.sum(1) / 2
    net[2].weight.data[2:], net[2].bias.data[2:] = 0, -100  # AutoAttack wants ten
    return Classifier(net, input_size=(8, 8))


@pytest.fixture(scope="module")
def data(linear):
    """[24, 3, 8, 8] in multiples of 1/255, and labels, a few of them wrong."""
    images = torch.randint(40, 216, (24, 3, 8, 8), generator=torch.Generator().manual_seed(1)) / 255
    labels = linear(images).argmax(1)
    labels[:5] = 1 - labels[:5]
    return images, labels


@pytest.fixture
def their_benchmark(robustbench, data, monkeypatch):
    """Its `benchmark` on our images in place of CIFAR-10's, which it would download."""
    loaders = import_module("robustbench.data")._clean_dataset_loaders
    for dataset in loaders:
        monkeypatch.setitem(loaders, dataset, lambda count, *_: tuple(part[:count] for part in data))

    def run(model, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return robustbench.benchmark(model, n_examples=24, dataset="cifar10", eps=EPS, batch_size=24, **settings)

    return run


def distances(linear, images):
    """[N], the L∞ distance to the other class: of a linear margin, that over the L1 norm of the weights' difference."""
    weight = linear.network.module[2].weight
    logits = linear(images)
    return (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()


def test_accuracies_of_a_deterministic_classifier_are_equal_and_exact(their_benchmark, linear, data, tmp_path):
    """Clean, and under attack: theirs by AutoAttack's four attacks, ours by AutoPGD."""
    images, labels = data
    far = distances(linear, images)
    assert ((far / EPS - 1).abs() > 0.05).all(), "no image is broken or spared by rounding"
    right = linear(images).argmax(1) == labels
    exact = float(right.double().mean()), float((right & (far > EPS)).double().mean())
    assert 0 < exact[1] < exact[0] < 1
    path = tmp_path / "images.npz"
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.savez(path, images=pixels.numpy(), labels=labels.numpy())
    undefended = DefendedClassifier(linear, Identity())
    ours = benchmark(undefended, 24, str(path), "Linf", eps=EPS, votes=1, attack=AutoPGD(steps=30, gradient=EOT()))
    assert ours == pytest.approx(exact)
    assert their_benchmark(undefended, threat_model="Linf") == pytest.approx(exact)


def test_their_clean_accuracy_is_of_one_prediction_each(robustbench, linear, data):
    images, labels = data
    fixed = DefendedClassifier(linear, Smoothing(sigma=0.2), seed=3, randomness="fixed")
    rows = torch.arange(24)
    draws = Draws(seed=3, phase=Phase.FORWARD, images=torch.zeros_like(rows), queries=rows)
    expected = float((fixed.logits(images, draws).argmax(1) == labels).double().mean())
    assert robustbench.clean_accuracy(fixed, images, labels, batch_size=24) == pytest.approx(expected)
    fresh = DefendedClassifier(linear, Smoothing(sigma=0.2), seed=3)
    found = {robustbench.clean_accuracy(fresh, images, labels, batch_size=10) for _ in range(6)}
    assert len(found) > 1, "another draw each"


def test_their_benchmark_attacks_ours(their_benchmark, linear, caplog):
    """It looks once, so that its accuracies of a stochastic classifier are luck, and it says so."""
    defended = DefendedClassifier(linear, Smoothing(sigma=0.1), samples=4)
    before = linear.gradients
    clean, robust = their_benchmark(defended, threat_model="Linf")
    assert 'version="rand"' in caplog.text
    assert 0 <= robust < clean < 1
    assert linear.gradients > before
