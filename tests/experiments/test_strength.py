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
from cannonade.evaluation.paired import Paired
from cannonade.evaluation.run_grid import run_grid
from cannonade.experiments import strength, strength_run
from cannonade.experiments.strength import Study, cells_of, changes_of, find_study, parse_goal, parse_strength
from cannonade.experiments.strength_run import Point, best_points, gains, selection_rate
from cannonade.experiments.unlike import with_own

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
    for name, study in (("table1", table), ("figure1", first), ("figure2", second)):
        assert changes_of(name, study) == ()
    assert cells_of(table)[0].settings.attack == "pgd(eps=8/255, steps=10, step_size=1/255)"
    with pytest.raises(InputError, match="one of table1, figure1, figure2, got 'figure9'"):
        find_study("figure9", "full")
    with pytest.raises(InputError, match="full or small, got 'tiny'"):
        find_study("figure1", "tiny")


def test_what_differs_from_the_paper_is_said():
    assert changes_of("figure1", find_study("figure1", "small")) == (
        "k x m 10x1 … 100x5 (8), not k x m 10x1 … 1000x20 (28)",
        "step sizes 1/255, 2/255, not step sizes 0.5/255, 1/255, 2/255, 4/255",
        "120 images, not 1000 images",
        "100 votes, not 500 votes",
    )
    own = with_own(
        find_study("table1", "small"), defenses=("identity",), strengths=((4, 1),), step_sizes=("3/255",), votes=500,
        eps="4/255", limit=None,
    )  # fmt: skip
    assert changes_of("table1", own) == (
        "defense identity, not defense rotation(degrees=90)",
        "k x m 4x1, not k x m 10x5, 50x1",
        "step sizes 3/255, not step sizes 1/255, 2/255",
        "eps 4/255, not eps 8/255",
        "120 images, not 1000 images",
    )
    assert {cell.settings.attack for cell in cells_of(own)} == {"pgd(eps=4/255, steps=4, step_size=3/255)"}


@pytest.mark.parametrize("text", ["50", "50x", "x5", "5x1x2", "1.5x2", "-5x1", "5 x 1", "fivex1"])
def test_bad_strengths(text):
    with pytest.raises(InputError, match=f"strength must be STEPSxDRAWS, such as 50x1 or 10x5, got '{text}'"):
        parse_strength(text)


def test_one_goal_of_a_study_of_both():
    own = with_own(find_study("figure1", "full"), goals=(parse_goal("untargeted"),))
    assert {cell.settings.target for cell in cells_of(own)} == {None}
    assert changes_of("figure1", own) == ("goal untargeted, not goal untargeted, targeted",)
    assert changes_of("figure1", with_own(find_study("figure1", "full"), stop="exact")) == (
        "stop exact, not stop none",
    )
    with pytest.raises(InputError, match="goal must be untargeted or targeted, got 'both'"):
        parse_goal("both")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strengths": ((0, 5),)}, "at least one step and one draw, got 0x5"),
        ({"strengths": ((5, 1), (5, 2), (5, 1))}, "each strength must be given once, got '5x1' and '5x1'"),
        ({"step_sizes": ("1/255", "2/510")}, "each step_size must be given once, got '1/255' and '2/510'"),
        ({"step_sizes": ("0/255",)}, "step_size must be positive, such as 1/255, got '0/255'"),
        ({"step_sizes": ("1/255, momentum=0.5",)}, "step_size must be a number such as 8/255"),
        ({"step_sizes": ("small",)}, "step_size must be a number such as 8/255, got 'small'"),
        ({"eps": "8/255, norm='l2'"}, "eps must be a number such as 8/255"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        with_own(SMALL, **settings)


def test_the_best_step_size_is_picked_by_votes_that_are_not_reported(grid, monkeypatch):
    plans, out = grid
    points = best_points(SMALL, plans, out)
    assert [(point.goal, point.steps, point.samples) for point in points] == [
        ("untargeted", 4, 1), ("untargeted", 2, 2), ("targeted", 4, 1), ("targeted", 2, 2),
    ]  # fmt: skip
    assert {point.step_size for point in points} == {"8/255"}  # 1/255 moves too little on this toy
    assert [point.published for point in points] == [None, None, 0.5, None]
    again = []
    monkeypatch.setattr(strength_run, "majority_vote", lambda *arguments, **settings: again.append(1))
    best_points(SMALL, plans, out)
    assert again == []  # what was voted once is kept
    monkeypatch.setattr(strength_run, "selection_rate", lambda plan, path: float("step_size=1-255" in path.name))
    assert {point.step_size for point in best_points(SMALL, plans, out)} == {"1/255"}


def test_the_selection_vote_reads_the_adversarial_images_of_every_goal(grid, monkeypatch):
    """With the draws of the final vote it would find exactly what that found."""
    plans, out = grid
    monkeypatch.setattr(strength_run, "Phase", SimpleNamespace(SELECTION=Phase.FINAL_VOTE))
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
    assert gain.counts == Paired(12, 0, 40)
    content = json.loads(json.dumps(gain.as_json()))
    assert (content["only_with"], content["only_without"], content["pairs"], content["points"]) == (12, 0, 40, 30)
    assert content["p_eot_stronger"] == pytest.approx(1 / 2**12)
    assert content["points_ci95"] == list(gain.counts.interval())
    assert content["equivalent_within_5_points"] is False


def test_command(toy, tmp_path, monkeypatch, capsys):
    study = replace(SMALL, goals=("targeted",), published={("smoothing(sigma=0.2)", "targeted", 6, 1): 0.5})
    monkeypatch.setitem(strength.STUDIES["table1"], "small", study)
    words = ["--model", toy["model"], "--data", toy["data"], "--scale", "small", "--batch", "6"]
    words += ["--strength", "6x1", "--strength", "3x2", "--step-size", "4/255", "--votes", "7", "--limit", "40"]
    argv = ["cannonade", "reproduce", "table1", *words, "--device", "cpu", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 0, printed
    assert "targeted, PGD-6 x EOT-1, step 4/255" in printed
    assert "; paper 50.0 %" in printed
    assert "k·m = 6: EOT-2" in printed
    assert "equivalent within 5 points: no, 90 % interval [" in printed
    assert "unlike the original: k x m 6x1, 3x2, not k x m 10x5, 50x1\n" in printed
    assert "unlike the original: 12 images, not 1000 images\n" in printed  # there are no 40
    assert "unlike the original: 7 votes, not 500 votes\n" in printed
    content = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert len(content["points"]) == 2
    assert len(content["gains"]) == 1
    assert "step sizes 4/255, not step sizes 1/255, 2/255" in content["changes"]
    assert (tmp_path / "out" / "table1.svg").stat().st_size > 10_000
