"""A run from end to end on a toy classifier: the numbers, the files, and what they do not depend on."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.defenses.bart import BartGao
from cannonade.errors import InputError
from cannonade.evaluation.caveats import caveats, caveats_between
from cannonade.evaluation.estimate import estimate
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.report import write_report
from cannonade.evaluation.run import run
from cannonade.evaluation.statistics import rate, wilson_interval
from cannonade.transforms.noise import Smoothing

SIDE, COUNT = 8, 12


class Patches(nn.Module):
    """Three classes: which third of the image is the brightest."""

    def forward(self, images):
        return torch.stack([part.mean((1, 2, 3)) for part in images.split((3, 3, 2), dim=3)], dim=1) * 20


def source():
    generator = np.random.default_rng(0)
    pixels = generator.random((COUNT, SIDE, SIDE, 3), dtype=np.float32) * 0.3 + 0.3
    labels = np.arange(COUNT) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[:, (slice(0, 3), slice(3, 6), slice(6, 8))[label]] += 0.08
    labels[-1] = (labels[-1] + 1) % 3  # one image that the classifier gets wrong
    return Source([Item(index, int(label), f"toy[{index}]") for index, label in enumerate(labels)], pixels)


def plan(**changes):
    classifier = Classifier(Patches(), input_size=(SIDE, SIDE), class_names=("left", "<middle>", "right"))
    defaults = {
        "model": "patches",
        "defended": DefendedClassifier(classifier, Smoothing(sigma=0.2), seed=3),
        "data": "toy",
        "source": source(),
        "attack": PGD(eps=0.02, steps=4, step_size=0.01, gradient=EOT(samples=2)),
        "votes": 15,
        "batch": 5,
    }
    return Plan(**(defaults | changes))


def lines(path):
    records = [json.loads(line) for line in (path / "images.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_summary_and_files(tmp_path):
    seen = []
    summary = run(plan(), tmp_path / "run", lambda done, so_far: seen.append((done, so_far["images"])))
    assert seen == [(5, 5), (10, 10), (12, 12)]
    records = lines(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert [record["id"] for record in records] == list(range(COUNT))

    right = [record["benign_label"] == record["label"] for record in records]
    attacked = [record for record in records if record["attacked"]]
    assert [record["attacked"] for record in records] == right
    assert not right[-1]
    assert summary["images"] == COUNT
    assert summary["attacked"] == len(attacked) == sum(right)
    assert summary["benign_accuracy"] == sum(right) / COUNT
    assert summary["success_rate"] == sum(r["adversarial_label"] != r["label"] for r in attacked) / len(attacked)
    assert summary["null_success_rate"] == sum(r["null_label"] != r["label"] for r in attacked) / len(attacked)
    assert summary["gradients_per_image"] == 8
    assert summary["forwards"] == (15 + 1) * COUNT + len(attacked) * (15 * 2 + 8)
    assert summary["votes_used"] == 15 * (COUNT + 2 * len(attacked))
    assert summary["seed"] == 3
    assert summary["seconds"] > 0
    for record in attacked:
        assert sum(record["adversarial_counts"].values()) == 15
        assert record["distance"] <= 0.02 + 1e-6

    shards = [load_file(file) for file in sorted((tmp_path / "run" / "adversarial").iterdir())]
    assert torch.cat([shard["ids"] for shard in shards]).tolist() == [record["id"] for record in attacked]
    configuration = json.loads((tmp_path / "run" / "run.json").read_text())
    assert configuration["config_hash"] == summary["config_hash"]
    assert configuration["configuration"]["defense"] == str(plan().defended.defense)


def test_attack_beats_the_null_rate(tmp_path):
    """So that the files above describe something: the attack must matter."""
    summary = run(plan(attack=PGD(eps=0.1, steps=4, step_size=0.05)), tmp_path / "run")
    assert summary["success_rate"] == 1
    assert summary["null_success_rate"] < 0.5


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunk_changes_nothing(tmp_path, chunk):
    """The toy classifier rounds the same in every chunk, so every count is equal, not only the draws."""
    run(plan(chunk=8), tmp_path / "a")
    run(plan(chunk=chunk), tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_batch_changes_nothing(tmp_path):
    run(plan(batch=12), tmp_path / "a")
    run(plan(batch=1), tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_limit_keeps_ids_and_draws(tmp_path):
    run(plan(), tmp_path / "a")
    run(plan(source=source().limited(4)), tmp_path / "b")
    assert [record["id"] for record in lines(tmp_path / "b")] == [0, 3, 6, 9]
    assert lines(tmp_path / "b") == [record for record in lines(tmp_path / "a") if record["id"] in (0, 3, 6, 9)]


def test_targeted(tmp_path):
    summary = run(plan(target=1, attack=PGD(eps=0.1, steps=4, step_size=0.05)), tmp_path / "run")
    records = lines(tmp_path / "run")
    for record in records:
        assert record["attacked"] == (record["benign_label"] != 1 and record["label"] != 1)
        if record["attacked"]:
            assert record["success"] == (record["adversarial_label"] == 1)
    assert summary["success_rate"] == 1


def test_nothing_attacked_gives_null_rates(tmp_path):
    everything_wrong = source()
    everything_wrong.items = [replace(item, label=(item.label + 1) % 3) for item in everything_wrong.items[:-1]]
    summary = run(plan(source=everything_wrong), tmp_path / "run")
    assert summary["attacked"] == 0
    assert summary["success_rate"] is None
    assert summary["success_rate_ci95"] is None
    assert summary["null_success_rate"] is None
    assert write_report([tmp_path / "run"], tmp_path / "run").read_text().count("not attacked") >= 11


def test_hash_is_of_content(tmp_path):
    hashes = [
        run(changed, tmp_path / str(number))["config_hash"]
        for number, changed in enumerate(
            [plan(), plan(), plan(votes=16), plan(source=source().limited(4)), plan(attack=PGD(steps=1, eps=0.02))]
        )
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_report_escapes_and_stands_alone(tmp_path):
    run(plan(), tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "run").read_text()
    assert "&lt;middle&gt;" in page
    assert "<middle>" not in page
    assert "http://" not in page
    assert "https://" not in page
    attacked = sum(record["attacked"] for record in lines(tmp_path / "run"))
    assert page.count("data:image/jpeg") == 2 * COUNT + 2 * attacked + 8  # four of the hardest, four of the easiest
    for words in ("Where the time went", "By class", "Wilson", f"Only {attacked} images were attacked"):
        assert words in page
    table = list(csv.DictReader((tmp_path / "run" / "images.csv").read_text().splitlines()))
    assert [int(row["id"]) for row in table] == list(range(COUNT))
    assert json.loads(table[0]["benign_counts"]) == lines(tmp_path / "run")[0]["benign_counts"]
    assert (tmp_path / "run" / "votes.png").read_bytes()[:4] == b"\x89PNG"


def test_invariance_is_the_share_of_draws_that_agree_with_the_classifier_alone(tmp_path):
    summary = run(plan(votes=200), tmp_path / "run")
    records = lines(tmp_path / "run")
    whole = plan()
    images = whole.source.load(whole.source.items, None)
    plain = whole.defended.classifier(images).argmax(1).tolist()
    assert [record["undefended_label"] for record in records] == plain
    agreeing = [record["benign_counts"].get(str(label), 0) / 200 for record, label in zip(records, plain, strict=True)]
    assert summary["invariance"] == pytest.approx(sum(agreeing) / COUNT)
    assert 0.3 < summary["invariance"] < 1
    stopped = run(plan(stop="exact", votes=200), tmp_path / "stopped")
    assert stopped["invariance"] == pytest.approx(summary["invariance"], abs=0.09)  # 3 standard errors of 12·20 draws
    assert stopped["forwards"] >= stopped["votes_used"] + (1 + 20) * COUNT


def test_votes_that_stop_give_the_labels_of_all(tmp_path):
    whole, exact = (run(plan(stop=stop, votes=41), tmp_path / str(stop)) for stop in (None, "exact"))
    for ours, theirs in zip(lines(tmp_path / "exact"), lines(tmp_path / "None"), strict=True):
        for key in ("benign_label", "adversarial_label", "null_label", "success"):
            assert ours.get(key) == theirs.get(key)
    assert exact["votes_used"] < 0.8 * whole["votes_used"]
    sequential = run(plan(stop="sequential", alpha=0.01, votes=41), tmp_path / "sequential")
    assert sequential["votes_used"] < exact["votes_used"]
    assert sequential["config_hash"] != exact["config_hash"]


def test_report_of_several_runs_compares_them_image_by_image(tmp_path):
    run(plan(), tmp_path / "a")
    run(plan(attack=PGD(eps=0.1, steps=4, step_size=0.05)), tmp_path / "b")
    page = write_report([tmp_path / "a", tmp_path / "b"], tmp_path).read_text()
    assert "Image by image" in page
    first, second = (
        {record["id"]: record["success"] for record in lines(tmp_path / name) if record["attacked"]} for name in "ab"
    )
    only = sum(second[image] and not first[image] for image in first)
    assert only > 0
    assert f'<td class="number">{len(first)}</td><td class="number">0</td><td class="number">{only}</td>' in page


def test_caveats():
    quiet = {
        "attacked": 500, "images": 600, "targets_equal_to_label": 0, "nonfinite_gradient_images": 0,
        "zero_gradient_images": 0, "null_success_rate": 0.01, "success_rate": 0.5, "undefended_accuracy": 0.9,
        "benign_accuracy": 0.85,
    }  # fmt: skip
    plain = {"defense": str(BartGao(k=3, backward="own")), "calls": {"gradient": "eot()"}}
    assert caveats(quiet, plain) == []
    loud = {"attacked": 99, "targets_equal_to_label": 2, "nonfinite_gradient_images": 3, "zero_gradient_images": 4}
    found = caveats(quiet | loud | {"null_success_rate": 0.25, "benign_accuracy": 0.7}, plain)
    assert [text.split()[0] for text in found] == ["Only", "2", "3", "4", "The", "The"]
    through = plain | {"defense": str(BartGao(k=3))}
    [text] = caveats(quiet, through)
    assert "backward='own'" in text
    assert caveats(quiet, through | {"calls": {"gradient": "none"}}) == []


def test_signs_of_masked_gradients_between_runs():
    def side(attack, broken, gradient="eot()"):
        calls = {"attack": attack, "gradient": gradient}
        records = [{"id": image, "attacked": True, "success": image < broken} for image in range(100)]
        return attack, {"target": None, "defense": "d", "calls": calls}, records

    few, many = side("pgd(steps=10)", 50), side("pgd(steps=100)", 40)
    [text] = caveats_between([few, many])
    assert text.startswith("pgd(steps=10) breaks more than pgd(steps=100), 10 images against 0 of 100")
    assert caveats_between([few, side("pgd(steps=100)", 46)]) == []  # p = .125: chance
    [text] = caveats_between([side("square()", 60, "none"), few])
    assert "sees no gradient" in text


def test_estimate_counts_what_the_run_takes(tmp_path):
    whole = plan(target="least_likely")
    cost = estimate([whole, plan()], [0, 5])
    summary = run(whole, tmp_path / "run")
    attacked = summary["attacked"] / COUNT
    assert whole.expected_gradients(attacked) == summary["gradients"]
    assert whole.expected_forwards(attacked) == summary["forwards"]
    assert cost.images == COUNT + COUNT - 5
    assert cost.gradients == whole.expected_gradients() + round(plan().expected_gradients() * (COUNT - 5) / COUNT)
    assert cost.seconds > 0
    assert cost.bytes > 1e6


def test_used_directory_is_refused(tmp_path):
    run(plan(), tmp_path / "run")
    before = (tmp_path / "run" / "images.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds another run: choose another --out"):
        run(plan(), tmp_path / "run")
    assert (tmp_path / "run" / "images.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"votes": 0}, "votes must be at least 1, got 0"),
        ({"stop": "early"}, "stop must be none, exact or sequential, got 'early'"),
        ({"alpha": 1.0}, r"alpha must be in \(0, 1\), got 1.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"target": 3}, "target must be one of the model's classes, 0 … 2, got 3"),
        ({"source": Source([Item(0, 7, "toy[0]")], np.zeros((1, 8, 8, 3)))}, "labels must be in 0 … 2.*got 7 for toy"),
        ({"source": Source([])}, "at least one image"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(InputError, match=words):
        plan(**changes)


def test_wilson_interval():
    assert wilson_interval(0, 0) is None
    assert rate(0, 0) is None
    for hits, trials in ((0, 10), (3, 10), (10, 10), (500, 1000)):
        expected = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high))
