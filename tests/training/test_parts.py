"""The small parts of a training: schedule, mean over weights, recipe, log."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from cannonade.errors import InputError
from cannonade.training.average import WeightAverage
from cannonade.training.distributed import Ranks
from cannonade.training.layout import lay_out
from cannonade.training.log import Log
from cannonade.training.recipe import Recipe
from cannonade.training.schedule import learning_rate
from cannonade.training.train import Rhythm


def test_schedule_rises_and_falls():
    rates = [learning_rate(step, 100, 2.0, warmup=10) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * step / 11 for step in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.001
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_schedule_is_torch_s():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 40)
    for step in range(40):
        assert learning_rate(step, 40, 0.3) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()


def test_mean_over_weights():
    module = nn.BatchNorm1d(2)
    mean = WeightAverage(module, 0.75)
    with torch.no_grad():
        module.weight.fill_(5)
    module.num_batches_tracked.fill_(9)
    mean.update(module)
    assert mean.state["weight"].tolist() == [2.0, 2.0]
    assert int(mean.state["num_batches_tracked"]) == 9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"votes": 0}, "votes must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay and warmup must be at least 0"),
        ({"average": 1.0}, r"decay in \[0, 1\)"),
        ({"precision": "float8"}, "precision must be one of float32, bfloat16, float16"),
    ],
)
def test_bad_recipes(settings, words):
    with pytest.raises(InputError, match=words):
        Recipe(**settings)


def test_fewer_images_than_processes(make_task):
    with pytest.raises(InputError, match="every process must have an image, got 2 for 3 processes"):
        replace(make_task(train=2), ranks=Ranks(0, 3))


def test_bad_divisions():
    assert Recipe(batch=48, accumulate=4).rows(3) == 4
    with pytest.raises(InputError, match="batch must be a multiple of passes times processes, 5, got 48"):
        Recipe(batch=48, accumulate=5).rows(1)
    with pytest.raises(InputError, match="checkpoint_every must be at least 1, got 0"):
        Rhythm(checkpoint_every=0)


def test_log_forgets_what_will_be_done_again(tmp_path):
    log = Log(tmp_path, -1)
    for step in (2, 4, 6):
        log.write("steps", {"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "st')
    Log(tmp_path, 4).write("steps", {"step": 5})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]


def test_log_on_a_full_disk(tmp_path):
    log = Log(tmp_path, -1)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")  # which is read as zeros, and cannot be written
    with pytest.raises(InputError, match=r"log\.jsonl could not be written \(No space left on device\).*--resume"):
        log.write("steps", {"step": 1})


def test_log_for_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, -1)
    for step in (2, 4):
        log.write("steps", {"step": step, "loss": step / 2, "seconds": {"model": 0.25}, "best": True, "name": "x"})
    log.close()
    log = Log(tmp_path, 2)
    log.write("steps", {"step": 3, "loss": 9.0})
    log.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"steps/loss", "steps/seconds/model", "steps/best"}
    assert [(event.step, event.value) for event in found.Scalars("steps/loss")] == [(2, 1.0), (3, 9.0)], "4 was undone"


@pytest.mark.parametrize(
    ("convolution", "laid_out"),
    [
        (nn.Conv2d(4, 8, 1, 2), False), (nn.Conv2d(15, 8, 1, (1, 2)), False), (nn.Conv2d(32, 32, 1, 2, groups=4), False),
        (nn.Conv2d(16, 8, 1, 2), True), (nn.Conv2d(4, 8, 1), True), (nn.Conv2d(4, 8, 3, 2), True),
    ],
)  # fmt: skip
def test_weights_are_not_laid_out_where_their_gradient_breaks(convolution, laid_out):
    module = nn.Sequential(convolution, nn.ReLU())
    assert lay_out(module) == laid_out
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last) or not laid_out
    inputs = torch.rand(4, convolution.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    module(
        inputs.contiguous(memory_format=torch.channels_last if laid_out else torch.contiguous_format)
    ).sum().backward()
    own = convolution.weight.grad.double()
    module.double().zero_grad()
    module(inputs.double()).sum().backward()
    torch.testing.assert_close(own, convolution.weight.grad, rtol=1e-4, atol=1e-3)


def test_a_layout_that_is_not_wanted_is_not_made():
    assert not lay_out(nn.Sequential(nn.Conv2d(16, 8, 3)), channels_last=False)
