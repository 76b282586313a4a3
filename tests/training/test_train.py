"""Training learns, stops where it must, and goes on after any end to the bits of a training that had none."""

import json
import os
import signal
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cannonade.errors import InputError
from cannonade.training import checkpoint
from cannonade.training.train import Rhythm, train
from cannonade.transforms.identity import Identity

EVERY = Rhythm(log_every=1, checkpoint_every=2)


def records(path, kind):
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def assert_same_training(one, other):
    """The same weights, state and log, but for the time it took."""
    for name in ("last", "best"):
        first, second = (load_file(path / f"{name}.safetensors") for path in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    states = [checkpoint.load_checkpoint(path).state for path in (one, other)]
    assert str(states[0]) == str(states[1])
    for kind in ("steps", "epoch"):
        logs = [records(path, kind) for path in (one, other)]
        for line in (*logs[0], *logs[1]):
            for timing in ("seconds", "images_per_second", "validation_seconds"):
                line.pop(timing, None)
        assert logs[0] == logs[1]


SETTINGS = {"accumulate": 2, "average": 0.9, "epochs": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_task):
    path = tmp_path_factory.mktemp("whole") / "run"
    assert train(make_task(**SETTINGS), path, rhythm=EVERY)
    return path


def slowly(task, path):
    train(task, path, resume=True, rhythm=EVERY, stop=lambda: time.sleep(0.03) is not None)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_in_the_middle_of_an_epoch(tmp_path, whole, make_task):
    """SIGKILL five times; what the global generator holds then must not matter."""
    path, task = tmp_path / "run", make_task(**SETTINGS)
    log = path / "log.jsonl"
    for lines in (3, 6, 9, 13, 19):
        process = get_context("fork").Process(target=slowly, args=(task, path))
        process.start()
        while process.is_alive() and (not log.is_file() or log.read_bytes().count(b"\n") < lines):
            time.sleep(0.002)
        assert process.is_alive(), "the training was over before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert checkpoint.load_checkpoint(path).state["step"] in (2, 4), "in the middle of an epoch"
    torch.manual_seed(99)
    assert train(make_task(**SETTINGS), path, resume=True, rhythm=EVERY)
    assert_same_training(path, whole)


def test_stopped_after_every_step(tmp_path, whole, make_task):
    path, rounds = tmp_path / "run", 1
    while not train(make_task(**SETTINGS), path, resume=True, rhythm=EVERY, stop=lambda: True):
        rounds += 1
    assert rounds == 3 * 7
    assert_same_training(path, whole)


def test_checkpoints_change_nothing(tmp_path, whole, make_task):
    assert train(make_task(**SETTINGS), tmp_path / "run", rhythm=Rhythm(log_every=1))
    assert_same_training(tmp_path / "run", whole)


def test_learns_what_can_be_learnt(tmp_path, make_task):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert train(make_task(epochs=6, train=90), tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator is left alone"
    last = records(tmp_path / "run", "epoch")[-1]["validation"]
    assert last["accuracy"] > 0.85, "0.33 by chance"
    assert last["plain_accuracy"] > 0.85
    assert last["invariance"] > 0.7
    seen = [json.loads(line) for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert [record["id"] for record in seen] == list(range(31))
    assert last["accuracy"] == sum(record["vote"] == record["label"] for record in seen) / 31


def test_passes_of_a_step_add_up(tmp_path, make_task):
    """Without batch norm and dropout, the accumulated gradient is that of the whole batch, a last smaller one included."""

    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(432, 3))

    for name, accumulate in (("one", 1), ("four", 4)):
        train(make_task(plain, accumulate=accumulate), tmp_path / name)
    one, four = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "four"))
    for key in one:
        torch.testing.assert_close(one[key], four[key], rtol=1e-4, atol=1e-5)


def test_head_alone(tmp_path, make_task):
    task = make_task(freeze=True, epochs=1)
    before = {key: value.clone() for key, value in task.start.module.state_dict().items()}
    train(task, tmp_path / "run")
    after = load_file(tmp_path / "run" / "last.safetensors")
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_leaves_the_defense_in_float32(tmp_path, make_task, precision):
    seen = []

    class Noted(Identity):
        def apply(self, images, params):
            seen.append((images.dtype, torch.is_autocast_enabled("cpu")))
            return images

    train(make_task(defense=Noted(), precision=precision, epochs=1), tmp_path / "run")
    assert set(seen) == {(torch.float32, False)}
    assert records(tmp_path / "run", "epoch")[0]["loss"] < 3


class _Poisoned(nn.Module):
    """Its loss is not a number once it has been trained for some steps."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(432, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += self.training
        return self.head(images.flatten(1)) * (torch.nan if self.calls > 5 else 1)


def test_a_loss_that_is_no_number(tmp_path, make_task):
    path = tmp_path / "run"
    with pytest.raises(InputError, match="the loss of step 6 is nan: stopped, the last good checkpoint is kept"):
        train(make_task(_Poisoned), path, rhythm=EVERY)
    kept = checkpoint.load_checkpoint(path)
    assert (kept.state["epoch"], kept.state["step"]) == (0, 4)
    assert all(value.isfinite().all() for value in kept.weights.values())


@pytest.mark.parametrize("write", range(1, 9))
def test_full_disk(tmp_path, whole, make_task, monkeypatch, write):
    """Whichever write fails, the training says so, and goes on once there is room."""
    path, written, sync = tmp_path / "run", [], checkpoint.replace_file

    def full(target, content):
        written.append(target)
        if len(written) == write:
            raise OSError(28, "No space left on device")
        sync(target, content)

    monkeypatch.setattr(checkpoint, "replace_file", full)
    with pytest.raises(InputError, match=r"could not be written .*No space left.*what was written before is intact"):
        train(make_task(**SETTINGS), path, rhythm=EVERY)
    if (path / "training.pt").exists():
        checkpoint.load_checkpoint(path)
    assert train(make_task(**SETTINGS), path, resume=True, rhythm=EVERY)
    assert_same_training(path, whole)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    import resource

    target = tmp_path / "file"
    checkpoint.write(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=r"could not be written .*File too large"):
            checkpoint.write(target, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target], "no piece is left in the way"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 16}, r"differs first in batch: there 8, here 16"),
        ({"defense": Identity()}, r"differs first in defense: there .Smoothing\(.*, here .Identity"),
        ({"train": 48}, "differs first in train: "),
    ],
)
def test_another_configuration(whole, make_task, changes, words):
    with pytest.raises(InputError, match=words):
        train(make_task(**(SETTINGS | changes)), whole, resume=True)


def test_another_model_and_a_directory_in_use(whole, tmp_path, make_task):
    task = make_task(**SETTINGS)
    other = replace(task, start=replace(task.start, card=replace(task.start.card, model="other")))
    with pytest.raises(InputError, match="differs first in model: there 'toy', here 'other'"):
        train(other, whole, resume=True)
    with pytest.raises(InputError, match="holds another run"):
        train(task, whole)
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="must hold a training of format 2"):
        train(task, tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["cut", "weights", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path, make_task, damage):
    path = tmp_path / "run"
    train(make_task(), path)
    weights = next((path / "checkpoints").iterdir())
    if damage == "cut":
        (path / "training.pt").write_bytes((path / "training.pt").read_bytes()[:500])
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        weights.unlink()
    with pytest.raises(InputError, match=r"training\.pt (is not one|must name weights as they were written)"):
        train(make_task(), path, resume=True)
