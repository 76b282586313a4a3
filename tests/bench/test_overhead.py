"""The comparison with the bare model: both sides do the work that they are timed for."""

import json
from importlib.util import find_spec

import pytest
import torch
from typer.testing import CliRunner

from cannonade.bench import authors, overhead
from cannonade.bench.authors import Loop
from cannonade.bench.overhead import SAMPLES, STEPS, VOTES, Sides
from cannonade.bench.timing import Timing
from cannonade.cli import app
from cannonade.errors import InputError

pytestmark = [
    pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed"),
    pytest.mark.skipif(find_spec("torchattacks") is None, reason="torchattacks is not installed"),
]


@pytest.fixture
def counted(monkeypatch):
    """Times every case once, and counts the gradients and forwards of both classifiers meanwhile."""
    counts = []

    def once(cases, rounds):
        for name, case in cases.items():
            for classifier in (sides.bare, sides.plain):
                classifier.forwards = classifier.gradients = 0
            case()
            counts.append(
                (name, sides.bare.forwards, sides.bare.gradients, sides.plain.forwards, sides.plain.gradients)
            )
        return {name: Timing((1.0,)) for name in cases}

    sides = Sides("resnet_tiny(width=4)", torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 1)
    monkeypatch.setattr(overhead, "interleaved", once)
    return sides, counts


def test_both_sides_take_the_same_gradients_and_forwards(counted):
    sides, counts = counted
    assert len(list(sides.compare("smoothing"))) == 3
    for first, second in zip(counts[::2], counts[1::2], strict=True):
        assert first[1:3] == second[1:3]
    assert [row[1:3] for row in counts[::2]] == [(3, 3), (3 * SAMPLES, 3 * SAMPLES), (3 * VOTES, 0)]
    counts.clear()
    sides.against_torchattacks("smoothing")
    gradients = 3 * SAMPLES * STEPS
    assert counts[0][1:3] == (gradients, gradients)
    assert counts[1][3:] == (gradients, gradients)


def test_the_authors_manner_goes_through_the_oracles_and_all_weights(counted, monkeypatch):
    sides, _ = counted
    seen, run = [], authors.run_oracles

    def watching(image, steps):
        seen.append([name for name, _ in steps])
        return run(image, steps)

    monkeypatch.setattr(authors, "run_oracles", watching)
    taken = []
    for weight in sides.loop.network.parameters():
        weight.register_hook(lambda gradient: taken.append(float(gradient.abs().sum())))
    first, second = sides.against_authors("bart_gao(k=2)")
    assert (first.what, second.what) == ("gradient, authors' manner", "prediction, authors' manner")
    assert [len(steps) for steps in seen] == [2] * 6
    assert seen[:3] == seen[3:]
    assert len(taken) == 3 * len(list(sides.loop.network.parameters()))


def test_a_program_stands_beside_the_sum_of_its_parts(counted, monkeypatch):
    sides, _ = counted

    def timed(cases, rounds):
        for case in cases.values():
            case()
        return {name: Timing((0.15 * place, 0.3 * place, 0.6 * place)) for place, name in enumerate(cases, 1)}

    monkeypatch.setattr(overhead, "interleaved", timed)
    row = sides.beside_parts("bart(k=2, transforms=('swirl', 'hsv_shift', 'lab_shift', 'jpeg_noise'))")
    # Three images; three groups, of which two are drawn, the second with two members.
    assert (row.ours, *row.ours_quartiles) == pytest.approx((100, 75, 150))
    assert row.theirs == pytest.approx(2 / 3 * (200 + 300 / 2 + 400 / 2 + 500))
    assert row.theirs_quartiles == pytest.approx((0.75 * row.theirs, 1.5 * row.theirs))
    assert (row.ratio, *row.ratio_interval) == pytest.approx((100 / row.theirs,) * 3)
    with pytest.raises(InputError, match="must be bart or bart_gao"):
        sides.beside_parts("smoothing")


def test_the_parts_of_a_program_without_gradient_have_none(counted, monkeypatch):
    sides, _ = counted
    seen = []
    monkeypatch.setattr(overhead, "gradient_of", lambda part, images: seen.append(part.backward) or (lambda: None))
    sides.beside_parts("bart_gao(k=2)")
    assert seen == ["identity"] * 3


def test_other_networks_are_not_compared(monkeypatch):
    monkeypatch.setattr(Loop, "logits", lambda self, image: self.network(image[None]))
    with pytest.raises(InputError, match="must be the same network"):
        Sides("resnet_tiny(width=4)", torch.rand(2, 3, 32, 32), 1)


def test_command(tmp_path):
    out = tmp_path / "overhead.json"
    arguments = ["--model", "resnet_tiny(width=4)", "--side", "32", "--batch", "2", "--rounds", "1"]
    ran = CliRunner().invoke(app, ["bench", "overhead", *arguments, "--defense", "bart_gao(k=2)", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 7
    assert "Σ p·ms" in ran.output
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["theirs"]) for row in rows)
