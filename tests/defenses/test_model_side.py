"""Defenses inside the classifier: where they act, on which draws, and how they fit attacks, votes and runs."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.cli import app
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.defenses.activation_pruning import ActivationPruning
from cannonade.defenses.kwta import KWTA
from cannonade.defenses.model_side import MODEL_SIDE, ActivationDefense
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import evaluate_batch
from cannonade.voting import majority_vote


class Small(nn.Module):
    """Two convolutions whose activation is given, and a linear layer: 8×8 images, four classes."""

    def __init__(self, activation=functional.relu):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 6, 3, 2, 1)
        self.head = nn.Linear(24, 4)
        self.activation = activation
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5
            parameter.data *= parameter.dim() > 1  # biases would decide for all images alike

    def forward(self, images):
        return self.head(self.activation(self.second(self.activation(self.first(images)))).flatten(1))


def small(activation=functional.relu):
    return Classifier(Small(activation), mean=(0.5,) * 3, std=(0.25,) * 3, input_size=(8, 8)).double()


def images(count=6):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def draws(count=6):
    return Draws(seed=3, phase=Phase.ATTACK, images=torch.arange(count), queries=torch.full((count,), 5))


class Halved(ActivationDefense):
    """Half of the ReLU, plus one draw of each place: what was replaced, and in which order, can be read off."""

    def activate(self, values, relu, stream):
        return relu(values) / 2 + stream.uniform().view(-1, 1, 1, 1)


def in_place(values):
    values.relu_()  # what it returns is thrown away
    return values


WAYS = {
    "function": functional.relu,
    "torch": torch.relu,
    "method": torch.Tensor.relu,
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "method in place": in_place,
    "relu6": functional.relu6,
    "module relu6": nn.ReLU6(inplace=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_relu_is_replaced_in_its_order(way):
    defended = DefendedClassifier(small(WAYS[way]), Halved())
    net, own = defended.classifier.network.module, draws()
    top = 6 if "6" in way else torch.inf
    values = (images() - 0.5) / 0.25
    for place, layer in enumerate((net.first, net.second)):
        values = layer(values).clamp(0, top) / 2 + own.part(0).site(place).uniform().view(-1, 1, 1, 1)
    torch.testing.assert_close(defended.logits(images(), own), net.head(values.flatten(1)), rtol=1e-12, atol=1e-12)


def test_other_threads_and_later_calls_are_left_alone():
    classifier = small()
    plain = classifier(images())
    DefendedClassifier(classifier, Halved()).logits(images(), draws())
    assert torch.equal(classifier(images()), plain)


def test_only_a_network_with_relus_it_can_reach_is_taken():
    smooth, compiled = small(torch.tanh), Classifier(Small(), input_size=(8, 8), compile=True)
    with pytest.raises(InputError, match="met none"):
        DefendedClassifier(smooth, Halved()).logits(images(), draws())
    with pytest.raises(InputError, match="without compile"):
        DefendedClassifier(compiled, KWTA()).logits(images().float(), draws())
    crops = small(lambda values: functional.relu(torch.cat((values, values)))[: len(values)])
    with pytest.raises(InputError, match="one row per image"):
        DefendedClassifier(crops, Halved()).logits(images(), draws())


@pytest.mark.parametrize("defense", [ActivationPruning(), KWTA(fraction=0.4)], ids=["pruning", "kwta"])
def test_attack_and_vote_do_not_depend_on_the_chunk(defense):
    defended = DefendedClassifier(small(), defense, seed=4)
    labels = torch.arange(6) % 4
    points, counts = [], []
    for chunk in (1, 5, 64):
        attack = PGD(eps=0.1, steps=3, step_size=0.05, gradient=EOT(samples=3, chunk=chunk))
        points.append(attack(defended, images(), labels).images)
        counts.append(majority_vote(defended, images(), 9, chunk=chunk).counts)
        torch.testing.assert_close(points[-1], points[0], rtol=0, atol=1e-9)
        assert torch.equal(counts[-1], counts[0])
    assert (points[0] != images()).any()
    assert ((counts[0] > 0).sum(1) > 1).any() != defense.deterministic


@pytest.mark.parametrize("defense", [ActivationPruning(), KWTA(fraction=0.4)], ids=["pruning", "kwta"])
def test_white_box_breaks_what_a_step_of_nothing_leaves(defense):
    defended = DefendedClassifier(small(), defense)
    labels = majority_vote(defended, images(), 51).labels
    rates = []
    for eps in (0, 0.5):
        attack = PGD(eps=eps, steps=20, step_size=0.1, loss="margin", gradient=EOT(samples=8))
        rates.append(float(evaluate_batch(defended, images(), labels, attack, votes=51).success.double().mean()))
    assert rates[0] <= 0.2
    assert rates[1] >= 0.8


def test_they_are_named_on_the_command_line():
    assert build_defense("kwta(fraction=1/5)") == KWTA(fraction=0.2)
    assert build_defense("activation_pruning") == ActivationPruning()
    assert set(MODEL_SIDE) == {"activation_pruning", "kwta", "odds"}
    for text, words in (
        ("kwta(fraction=0.0)", "in \\(0, 1\\]"),
        ("activation_pruning(samples=-1)", "positive"),
        ("odds(statistics='nowhere')", "cannonade calibrate"),
        ("kwtaa", "did you mean kwta"),
    ):
        with pytest.raises(InputError, match=words):
            build_defense(text)


OWN = """
import torch
from torch import nn

def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(12) % 3)
    (tmp_path / "own_relu.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


MODEL = ["--model", "own_relu:plain", "--data", "data.npz"]


@pytest.mark.parametrize(
    ("defense", "attack", "eot"),
    [
        ("activation_pruning(samples=0.5)", "pgd(eps=8/255, steps=2)", "2"),
        ("kwta(fraction=0.3)", "auto_pgd(eps=8/255, steps=3)", "1"),
        ("kwta(fraction=0.3)", "nes(eps=8/255, queries=20, pairs=5, loss='margin')", "1"),
        ("odds(statistics='odds.safetensors')", "logit_matching(steps=2)", "3"),
    ],
)
def test_evaluate(folder, defense, attack, eot):
    def command(*arguments):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 0, ran.output

    if defense.startswith("odds"):
        command(
            "calibrate", *MODEL, "--noise", "n30/255", "--noise", "s0.05", "--draws", "4", "--out", "odds.safetensors"
        )
    command("evaluate", *MODEL, "--defense", defense, "--attack", attack, "--eot", eot, "--votes", "5", "--out", "run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["images"] == 12
    assert summary["gradients_per_image"] in (None, *range(1, 10)) or attack.startswith("nes")
    assert (folder / "run" / "report.html").is_file()
    configuration = json.loads((folder / "run" / "run.json").read_text())["configuration"]
    assert not defense.startswith("odds") or "sha256" in configuration["defense"]


def test_finetuning_takes_what_a_network_can_be_trained_with(folder):
    words = ["finetune", *MODEL, "--val", "data.npz", "--workers", "0", "--epochs", "1", "--batch", "6", "--size", "8"]
    ran = CliRunner().invoke(app, [*words, "--defense", "kwta(fraction=0.3)", "--votes", "3", "--out", "trained"])
    assert ran.exit_code == 0, ran.output
    CliRunner().invoke(app, ["calibrate", *MODEL, "--draws", "2", "--out", "odds.safetensors"])
    for more, match in (
        (["--defense", "kwta", "--compile"], "without --compile"),
        (["--defense", "odds(statistics='odds.safetensors')"], "must change images or activations"),
    ):
        ran = CliRunner().invoke(app, [*words, *more, "--out", "other"])
        assert isinstance(ran.exception, InputError)
        assert match in str(ran.exception)


@pytest.mark.parametrize("defense", [ActivationPruning(samples=2.0), KWTA(fraction=0.3)], ids=lambda part: part.name)
@pytest.mark.parametrize("way", WAYS)
def test_gradients_do_not_hang_on_how_a_relu_is_written(defense, way):
    """Also where it overwrites its input, which backward may want."""
    plain = functional.relu6 if "6" in way else functional.relu
    gradients = []
    for activation in (WAYS[way], plain):
        leaf = images().requires_grad_()
        logits = DefendedClassifier(small(activation), defense).logits(leaf, draws())
        gradients += torch.autograd.grad(logits.square().sum(), leaf)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
