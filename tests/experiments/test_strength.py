"""Table 1 and Figures 1 and 2: the settings of the paper, the choice of step sizes, and the comparison at equal strength."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cannonade import cli
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.evaluation.assemble import assemble
from cannonade.evaluation.run_grid import run_grid
from cannonade.experiments import strength
from cannonade.experiments.strength import Point, Study, best_points, cells_of, find_study, gains, selection_rate

SMALL = Study(
    title="toy", defenses=("smoothing(sigma=0.2)",), goals=("untargeted", "targeted"), strengths=((4, 1), (2, 2)),
    step_sizes=("1/255", "8/255"), limit=12, votes=11, published={("smoothing(sigma=0.2)", "targeted", 4, 1): 0.5},
)  # fmt: skip


@pytest.fixture
def grid(toy, tmp_path):
    """The toy's study, run."""
    cells = cells_of(SMALL)
    found = assemble([cell.settings for cell in cells], **toy, batch=5, device="cpu")
    plans = dict(zip(cells, found, strict=True))
    run_grid(plans, tmp_path / "grid")
    return plans, tmp_path / "grid"


def test_the_papers_settings():
    table, first, second = (find_study(name, "full") for name in ("table1", "figure1", "figure2"))
    assert all(k * m == 50 for k, m in table.strengths)
    assert len(cells_of(table)) == 2 * 2 * 2
    assert len(cells_of(first)) == 2 * 7 * 4 * 4
    assert len(cells_of(second)) == 2 * 7 * 4 * 4
    assert {cell.settings.target for cell in cells_of(second)} == {"random"}
    assert {cell.settings.votes for cell in cells_of(first)} == {500}
    assert table.published["rotation(degrees=90)", "targeted", 10, 5] == 0.99
    assert [study.changes for study in (table, first, second)] == [()] * 3
    assert all(find_study(name, "small").changes for name in strength.STUDIES)
    assert cells_of(table)[0].settings.attack == "pgd(eps=8/255, steps=10, step_size=1/255)"
    other = find_study("figure1", "small", "rotation(degrees=5)")
    assert other.defenses == ("rotation(degrees=5)",)
    assert "in place of noise_injection" in other.changes[-1]
    with pytest.raises(InputError, match="one of table1, figure1, figure2, got 'figure9'"):
        find_study("figure9", "full")
    with pytest.raises(InputError, match="full or small, got 'tiny'"):
        find_study("figure1", "tiny")


def test_the_best_step_size_is_picked_by_votes_that_are_not_reported(grid, monkeypatch):
    plans, out = grid
    points = best_points(SMALL, plans, out)
    assert [(point.goal, point.steps, point.samples) for point in points] == [
        ("untargeted", 4, 1), ("untargeted", 2, 2), ("targeted", 4, 1), ("targeted", 2, 2),
    ]  # fmt: skip
    assert {point.step_size for point in points} == {"8/255"}  # 1/255 moves too little on this toy
    assert [point.published for point in points] == [None, None, 0.5, None]
    again = []
    monkeypatch.setattr(strength, "majority_vote", lambda *arguments, **settings: again.append(1))
    best_points(SMALL, plans, out)
    assert again == []  # what was voted once is kept
    monkeypatch.setattr(strength, "selection_rate", lambda plan, path: float("step_size=1-255" in path.name))
    assert {point.step_size for point in best_points(SMALL, plans, out)} == {"1/255"}


def test_the_selection_vote_reads_the_adversarial_images_of_every_goal(grid, monkeypatch):
    """With the draws of the final vote it would find exactly what that found."""
    plans, out = grid
    monkeypatch.setattr(strength, "Phase", SimpleNamespace(SELECTION=Phase.FINAL_VOTE))
    for cell, plan in plans.items():
        summary = json.loads((out / cell.name / "summary.json").read_text())
        assert selection_rate(plan, out / cell.name) == summary["success_rate"]


def test_gains_are_paired_at_equal_strength():
    def point(steps, samples, broken, goal="untargeted"):
        records = [{"id": image, "attacked": True, "success": image < broken} for image in range(40)]
        return Point("d", goal, steps, samples, "1/255", {}, records, None)

    points = [point(50, 1, 10), point(10, 5, 22), point(100, 1, 30), point(50, 1, 5, "targeted")]
    [gain] = gains(points)
    assert (gain.with_eot, gain.without_eot, gain.strength) == ((10, 5), (50, 1), 50)
    assert (gain.only_with, gain.only_without, gain.pairs) == (12, 0, 40)
    assert gain.points == 30
    assert gain.p == pytest.approx(2 / 2**12)


def test_command(toy, tmp_path, monkeypatch, capsys):
    study = replace(SMALL, goals=("targeted",), step_sizes=("8/255",))
    monkeypatch.setitem(strength.STUDIES["table1"], "small", study)
    words = ["--model", toy["model"], "--data", toy["data"], "--scale", "small", "--batch", "6"]
    argv = ["cannonade", "reproduce", "table1", *words, "--device", "cpu", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 0, printed
    assert "targeted, PGD-4 x EOT-1, step 8/255" in printed
    assert "; paper 50.0 %" in printed
    assert "k·m = 4: EOT-2" in printed
    content = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert len(content["points"]) == 2
    assert len(content["gains"]) == 1
    assert (tmp_path / "out" / "table1.svg").stat().st_size > 10_000
