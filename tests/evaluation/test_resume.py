"""A run that was interrupted, however, goes on to the bits of one that was not."""

import fcntl
import json
import os
import random
import shutil
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.evaluation import run as module
from cannonade.evaluation.merge import merge
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.run import run
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.transforms.noise import Smoothing

SIDE, COUNT, BATCH = 8, 23, 4
KILLS = 50


class Patches(nn.Module):
    """Three classes: which third of the image is the brightest."""

    def forward(self, images):
        return torch.stack([part.mean((1, 2, 3)) for part in images.split((3, 3, 2), dim=3)], dim=1) * 20


def plan(**changes):
    pixels = np.random.default_rng(0).random((COUNT, SIDE, SIDE, 3), dtype=np.float32) * 0.3 + 0.3
    labels = np.arange(COUNT) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[:, (slice(0, 3), slice(3, 6), slice(6, 8))[label]] += 0.08
    classifier = Classifier(Patches(), input_size=(SIDE, SIDE), class_names=("left", "middle", "right"))
    defaults = {
        "model": "patches",
        "defended": DefendedClassifier(classifier, Smoothing(sigma=0.2), seed=3),
        "data": "toy",
        "source": Source([Item(index, int(label), f"toy[{index}]") for index, label in enumerate(labels)], pixels),
        "attack": PGD(eps=0.02, steps=3, step_size=0.01, gradient=EOT(samples=2)),
        "votes": 9,
        "batch": BATCH,
    }
    return Plan(**(defaults | changes))


def content(path):
    """Everything of a finished run but how long it took, and when."""
    records = [json.loads(line) for line in (path / "images.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds")
    summary = json.loads((path / "summary.json").read_text())
    summary.pop("seconds")
    summary.pop("seconds_by_part")
    shards = {
        str(file.relative_to(path)): file.read_bytes()
        for folder in ("adversarial", "pictures")
        for file in sorted((path / folder).iterdir())
    }
    return sorted(records, key=lambda record: record["id"]), summary, shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(plan(), path)
    return path


def slowly(out, mode="resume"):
    """Resume a run that takes its time before each batch, so that a kill falls between and inside batches alike."""
    evaluate = module.evaluate_batch

    def slow(*arguments, **settings):
        time.sleep(0.01)
        return evaluate(*arguments, **settings)

    module.evaluate_batch = slow
    run(plan(), out, mode=mode)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments(tmp_path, whole):
    """SIGKILL 50 times, files cut at random bytes in between; a run that gets through is begun anew."""
    chance, out, kills = random.Random(1), tmp_path / "run", 0
    while kills < KILLS:
        process = get_context("fork").Process(target=slowly, args=(out,))  # spawned, each would import for seconds
        process.start()
        process.join(chance.uniform(0, 0.15))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            truncate(out, chance)
        else:
            assert process.exitcode == 0
            assert content(out) == content(whole)
            shutil.rmtree(out)
    run(plan(), out, mode="resume")
    assert content(out) == content(whole)


def truncate(out, chance):
    """Cut one of the files that grow, as a lost page of the disk would."""
    file = out / chance.choice(["images.jsonl", "batches.jsonl"])
    if file.is_file():
        data = file.read_bytes()
        file.write_bytes(data[: chance.randint(0, len(data))])


@pytest.mark.parametrize("seed", range(20))
def test_files_damaged_at_random_bytes(tmp_path, whole, seed):
    """Half-way runs with any file cut or overwritten, but run.json, which is written once and whole."""
    chance, out = random.Random(seed), tmp_path / "run"
    shutil.copytree(whole, out)
    if chance.random() < 0.5:
        (out / "summary.json").unlink()
    files = [
        file for file in sorted(out.rglob("*")) if file.is_file() and file.name not in ("run.json", "lock", "working")
    ]
    for file in chance.sample(files, chance.randint(1, 3)):
        data = bytearray(file.read_bytes())
        place = chance.randrange(len(data))
        kind = chance.choice(["cut", "overwrite", "delete"])
        if kind == "cut":
            file.write_bytes(data[:place])
        elif kind == "overwrite":
            data[place] ^= 0x5A
            file.write_bytes(data)
        else:
            file.unlink()
    notices = []
    run(plan(), out, mode="resume", notice=notices.append)
    ours, expected = content(out), content(whole)
    assert ours[1:] == expected[1:]
    assert ours[0] == expected[0]


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = {file: file.stat().st_mtime_ns for file in (out / "adversarial").iterdir()}
    done = []
    run(plan(), out, lambda images, summary: done.append(images), mode="resume")
    assert done == []
    assert before == {file: file.stat().st_mtime_ns for file in (out / "adversarial").iterdir()}
    assert content(out) == content(whole)


def test_stops_between_batches_and_goes_on(tmp_path, whole):
    out, asked = tmp_path / "run", []

    def stop(summary):
        asked.append(summary["images"])
        return len(asked) > 2

    summary = run(plan(), out, stop=stop)
    assert summary["images"] == 2 * BATCH
    assert asked == [0, BATCH, 2 * BATCH]
    assert not (out / "summary.json").exists()
    assert run(plan(), out, mode="resume")["images"] == COUNT
    assert content(out) == content(whole)


def test_another_configuration_is_refused(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(InputError, match="differs first in votes: there 9, here 11"):
        run(plan(votes=11), out, mode="resume")
    with pytest.raises(InputError, match="differs first in attack"):
        run(plan(attack=PGD(eps=0.03, steps=3, step_size=0.01)), out, mode="resume")
    header = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(header | {"format": 1}))
    with pytest.raises(InputError, match="has format 1"):
        run(plan(), out, mode="resume")
    (out / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"readable run\.json"):
        run(plan(), out, mode="resume")


def test_the_chunk_is_that_of_the_beginning(tmp_path):
    out, asked = tmp_path / "run", iter([False, True])
    run(plan(), out, stop=lambda _: next(asked))
    header = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(header | {"resolved_chunk": 3}))
    chunks = []
    defended = plan().defended
    logits = defended.logits

    class Watching(DefendedClassifier):
        def logits(self, images, draws):
            chunks.append(len(images))
            return logits(images, draws)

    run(plan(defended=Watching(defended.classifier, defended.defense, seed=3)), out, mode="resume")
    assert max(chunks) == 3


def test_one_writer(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with (out / "working").open("a") as file:
        for kind, modes in ((fcntl.LOCK_EX, ("resume", "join")), (fcntl.LOCK_SH, ("resume",))):
            fcntl.flock(file, kind)
            for mode in modes:
                with pytest.raises(InputError, match="only one process may write a run"):
                    run(plan(), out, mode=mode)
    with pytest.raises(InputError, match="holds another run"):
        run(plan(), out)


def test_resume_may_also_begin(tmp_path, whole):
    run(plan(), tmp_path / "run", mode="resume")
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("write", range(1, 12))
def test_full_disk(tmp_path, whole, monkeypatch, write):
    """Whichever write fails, nothing finished is lost."""
    out, written, sync = tmp_path / "run", [], os.fsync

    def full(number):
        written.append(number)
        if len(written) == write:
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(plan(), out)
    monkeypatch.setattr(os, "fsync", sync)
    run(plan(), out, mode="resume")
    assert content(out) == content(whole)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shared_by_processes_of_which_one_dies(tmp_path, whole, workers):
    out = tmp_path / "run"
    processes = [get_context("fork").Process(target=slowly, args=(out, "join")) for _ in range(workers)]
    for process in processes:
        process.start()
    if workers > 1:
        processes[0].join(0.06)
        processes[0].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes[workers > 1 :]] == [0] * (workers - (workers > 1))
    assert content(out) == content(whole)
    assert not (out / "claims").exists()


@pytest.fixture
def parts(tmp_path):
    """A run in three parts, as three machines would have done it; the second also began somebody else's."""
    paths = [tmp_path / f"part{number}" for number in range(3)]
    for number, path in enumerate(paths):
        summary = run(plan(), path, shard=(number, 3))
        assert summary["images"] < COUNT
        assert not (path / "summary.json").exists()
    asked = iter([False, True])
    run(plan(), paths[1], mode="resume", stop=lambda _: next(asked))
    return paths


def test_merged_parts_are_the_whole(tmp_path, whole, parts):
    summary = merge(parts[::-1], tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    assert summary["images"] == COUNT
    done = []
    run(plan(), tmp_path / "merged", lambda *_: done.append(1), mode="resume")
    assert done == []


def test_a_damaged_part_is_made_up_for_by_another_or_refused(tmp_path, whole, parts):
    first, _, third = ((part / "adversarial" / "batch-000000.safetensors") for part in parts)
    data = bytearray(first.read_bytes())
    assert (parts[1] / "adversarial" / "batch-000000.safetensors").is_file()
    assert not third.is_file()
    data[-1] ^= 1
    first.write_bytes(data)
    merge(parts, tmp_path / "merged")
    assert content(tmp_path / "merged") == content(whole)
    with pytest.raises(InputError, match="all 6 batches, 3 are in none of them or damaged, the first being 0"):
        merge([parts[0], parts[2]], tmp_path / "less")
    assert not (tmp_path / "less").exists()


def test_only_parts_of_one_run_are_merged(tmp_path, parts):
    other = tmp_path / "other"
    run(plan(votes=11), other)
    with pytest.raises(InputError, match="differs first in votes: there 11, here 9"):
        merge([parts[0], other], tmp_path / "merged")
    header = json.loads((parts[2] / "run.json").read_text())
    (parts[2] / "run.json").write_text(json.dumps(header | {"resolved_chunk": 3}))
    with pytest.raises(InputError, match=r"same rows of a pass, .* has 3: give every machine the same --chunk"):
        merge(parts, tmp_path / "merged")


def test_a_retreat_for_memory_is_recorded_and_replayed(tmp_path, whole):
    """The third batch meets less memory once; done again after damage, with all the memory there is, it keeps its passes."""
    out, rows = tmp_path / "run", []

    class Short(DefendedClassifier):
        full = False

        def logits(self, images, draws):
            if self.full and len(images) > 5 and 8 <= int(draws.images.min()) < 12:
                raise torch.OutOfMemoryError("no memory")
            if 8 <= int(draws.images.min()) < 12:
                rows.append(len(images))
            return super().logits(images, draws)

    usual = plan().defended
    defended = Short(usual.classifier, usual.defense, seed=3)
    defended.full = True
    run(plan(defended=defended, chunk=16), out)
    lines = [json.loads(line) for line in (out / "batches.jsonl").read_text().splitlines()]
    assert [line["chunk"] for line in lines] == [16, 16, 4, 16, 16, 16]
    before, shard = content(out), out / "adversarial" / "batch-000002.safetensors"
    shard.unlink()
    defended.full = False
    rows.clear()
    run(plan(defended=defended, chunk=16), out, mode="resume")
    assert max(rows) == 4
    assert content(out) == before


def test_workers_have_orders_of_their_own(tmp_path, monkeypatch):
    first = []
    for pid in range(20):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        directory = RunDirectory(tmp_path / str(pid))
        with directory.writing(True, lambda alone: None):
            first.append(next(directory.unfinished(range(1000), True)))
    assert len(set(first)) > 15


def test_only_new_lines_are_read(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    directory = RunDirectory(out)
    lines = (out / "batches.jsonl").read_text().splitlines(keepends=True)
    (out / "batches.jsonl").write_text(lines[0] + lines[1][:30])
    assert directory.finished_numbers() == {0}
    with (out / "batches.jsonl").open("a") as file:
        file.write(lines[1][30:] + lines[2])
    assert directory.finished_numbers() == {0, 1, 2}
    (out / "batches.jsonl").write_text(lines[5])
    assert directory.finished_numbers() == {5}
