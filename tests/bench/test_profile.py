"""Where the time goes: what is planted in a part shows there, and the parts are the whole."""

import json
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.bench.compare import compare
from cannonade.bench.profile import PARTS, profile, split
from cannonade.classifier import Classifier
from cannonade.cli import app
from cannonade.defended import DefendedClassifier
from cannonade.defenses import bart
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.transforms.base import Transform
from cannonade.transforms.swirl import Swirl

SLOW = 0.1  # seconds of a planted cost, by far more than all the rest


class _Slow(torch.autograd.Function):
    """The identity, which takes its time."""

    @staticmethod
    def forward(ctx, values, forward, backward):
        ctx.seconds = backward
        time.sleep(forward)
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.seconds)
        return grad, None, None


@dataclass(frozen=True, kw_only=True)
class _Planted(Transform):
    draws: float = 0
    forward: float = 0
    backward_seconds: float = 0

    def sample(self, draws, shape):
        time.sleep(self.draws)
        return {"factor": draws.site(0).uniform(0.5, 1)}

    def apply(self, images, params):
        return _Slow.apply(images * params["factor"].view(-1, 1, 1, 1), self.forward, self.backward_seconds)


class _Network(nn.Module):
    def __init__(self, forward=0, backward=0):
        super().__init__()
        self.seconds = forward, backward
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))

    def forward(self, images):
        return _Slow.apply(self.layers(images), *self.seconds)


def slow_loss(backward):
    def loss(logits, labels):
        return nn.functional.cross_entropy(_Slow.apply(logits, 0, backward), labels, reduction="none")

    return loss


def gradient(network, defense, loss_seconds=0, **settings):
    defended = DefendedClassifier(Classifier(network, input_size=(8, 8)), defense)
    images, ids = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    eot = EOT(chunk=2, **settings)
    return lambda: eot.estimate(defended, images, Untargeted(ids), slow_loss(loss_seconds), draws)


@pytest.mark.parametrize(
    ("part", "network", "defense", "loss", "average"),
    [
        ("draws", {}, {"draws": SLOW}, 0, "loss"),
        ("transforms forward", {}, {"forward": SLOW}, 0, "probs"),
        ("transforms backward", {}, {"backward_seconds": SLOW}, 0, "loss"),
        ("model forward", {"forward": SLOW}, {}, 0, "loss"),
        ("model backward", {"backward": SLOW}, {}, 0, "logits"),
        ("reduction", {}, {}, SLOW, "loss"),
        ("reduction", {}, {}, SLOW, "logits"),
    ],
)
def test_a_planted_cost_shows_in_its_part(part, network, defense, loss, average):
    work = gradient(_Network(**network), _Planted(**defense), loss, average=average)
    found = profile(work, gradients=1, rounds=1)
    shares = {share.part: share for share in found.shares}
    assert tuple(shares) == PARTS
    assert shares[part].milliseconds >= 1000 * SLOW
    assert shares[part].share > 0.5
    assert all(share.share >= 0 for share in found.shares)
    assert sum(share.milliseconds for share in found.shares) == pytest.approx(found.profiled)
    assert found.plain >= 1000 * SLOW


def test_a_node_without_a_number_belongs_with_the_one_before():
    events = []

    def event(name, start, end, number=-1, parent=None):
        times = SimpleNamespace(start=start * 1e6, end=end * 1e6)
        events.append(SimpleNamespace(name=name, time_range=times, sequence_nr=number, cpu_parent=parent))
        return events[-1]

    whole = event("cannonade.whole", 0, 100)
    for part, start, number in (("transforms", 1, 7), ("model", 11, 8), ("reduction", 21, 9)):
        span = event(f"cannonade.{part}", start, start + 9, parent=whole)
        event("aten::add", start + 1, start + 3, number, span)
        event("aten::empty", start + 4, start + 5, -1, span)
    backward = event("cannonade.backward", 40, 90, parent=whole)
    for name, start, end, number in (
        ("Add", 41, 50, 9),
        ("Conv", 51, 60, 8),
        ("View", 60, 64, -1),
        ("Turn", 65, 85, 7),
    ):
        event(f"autograd::engine::evaluate_function: {name}", start, end, number, backward)
    event("aten::add", 200, 300, 7)
    assert split(events) == {
        "draws": 0, "schedule": 0, "transforms forward": 9, "transforms backward": 20, "model forward": 9,
        "model backward": 13, "reduction": 18, "rest": 31,
    }  # fmt: skip


def test_planning_is_schedule_and_a_program_s_steps_are_transforms(monkeypatch):
    program = BaRT(k=2, transforms=("swirl", "jpeg_noise"))
    plan = bart.plan

    def slow(*arguments, **settings):
        time.sleep(SLOW)
        return plan(*arguments, **settings)

    monkeypatch.setattr(bart, "plan", slow)
    shares = {share.part: share.milliseconds for share in profile(gradient(_Network(), program), 1, 1).shares}
    assert 1000 * SLOW <= shares["schedule"] < 1500 * SLOW
    apply = Swirl.apply

    def slower(self, images, params):
        return _Slow.apply(apply(self, images, params), 2 * SLOW, 3 * SLOW)

    monkeypatch.setattr(Swirl, "apply", slower)
    shares = {share.part: share.milliseconds for share in profile(gradient(_Network(), program), 1, 1).shares}
    assert 1000 * SLOW <= shares["schedule"] < 1500 * SLOW
    assert shares["transforms forward"] >= 2000 * SLOW
    assert shares["transforms backward"] >= 3000 * SLOW


def test_times_are_of_one_gradient_in_the_median_round():
    work = gradient(_Network(forward=0.01), _Planted(), samples=3)
    found = profile(work, gradients=6, rounds=3)
    model = next(share for share in found.shares if share.part == "model forward")
    assert 5 <= model.milliseconds < 40, "three passes of two rows, 10 ms each"
    assert model.quartiles[0] <= model.quartiles[1]
    assert found.profiled == pytest.approx(sum(share.milliseconds for share in found.shares))


def test_command(tmp_path):
    out = tmp_path / "profile.json"
    arguments = ["--model", "resnet_tiny(width=4)", "--side", "32", "--batch", "2", "--rounds", "1", "--samples", "2"]
    ran = CliRunner().invoke(app, ["bench", "profile", *arguments, "--defense", "bart_gao(k=2)", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    record = json.loads(out.read_text())
    assert [row["part"] for row in record["parts"]] == list(PARTS)
    assert sum(row["share"] for row in record["parts"]) == pytest.approx(1)
    assert record["wholes"][0]["samples"] == 2
    assert not compare(out, out).missing
