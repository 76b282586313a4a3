"""A grid: what its words mean, and that its cells are the runs they would have been alone."""

import csv
import json
import signal
import sys
from dataclasses import replace

import pytest

from cannonade import cli
from cannonade.errors import InputError
from cannonade.evaluation import run as run_module
from cannonade.evaluation import shared_votes as shared_module
from cannonade.evaluation.assemble import assemble
from cannonade.evaluation.grid import Settings, expand, parse_axis
from cannonade.evaluation.grid_report import write_grid_report
from cannonade.evaluation.run import run
from cannonade.evaluation.run_grid import run_grid

COUNT, VOTES = 12, 15
BASE = Settings(defense="smoothing(sigma=0.2)", attack="pgd(eps=0.02, steps=3, step_size=0.01)", votes=VOTES, seed=3)


@pytest.fixture
def plans(toy):
    """Makes the plans of cells, by cell."""

    def make(*axes, base=BASE):
        cells = expand([parse_axis(axis) for axis in axes], base)
        words = toy | {"batch": 5, "device": "cpu"}
        return dict(zip(cells, assemble([cell.settings for cell in cells], **words), strict=True))

    return make


def content(path):
    """Records without their times, and the bytes of the images."""
    records = [json.loads(line) for line in (path / "images.jsonl").read_text().splitlines()]
    shards = {file.name: file.read_bytes() for file in sorted((path / "adversarial").iterdir())}
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records], shards


def test_axes_span_cells_the_last_the_fastest():
    axes = [parse_axis("attack.steps = 10, 50"), parse_axis("defense=rotation(degrees=10),bart(k=5)")]
    cells = expand(axes, BASE)
    assert [cell.text for cell in cells][:2] == [
        "attack.steps=10, defense=rotation(degrees=10)",
        "attack.steps=10, defense=bart(k=5)",
    ]
    assert cells[3].settings.attack == "pgd(eps=0.02, steps=50, step_size=0.01)"
    assert cells[3].settings.defense == "bart(k=5)"
    assert [cell.name for cell in cells] == [cell.name for cell in map(reverse, cells)]
    assert expand([], BASE)[0].settings == BASE


def reverse(cell):
    return type(cell)(cell.choices[::-1], cell.settings)


def test_a_whole_part_comes_before_its_arguments():
    axes = [parse_axis("attack.eps=2/255"), parse_axis("attack=pgd,auto_pgd(steps=7, loss='dlr')")]
    assert [cell.settings.attack for cell in expand(axes, BASE)] == [
        "pgd(eps=2/255)",
        "auto_pgd(steps=7, loss='dlr', eps=2/255)",
    ]
    [cell] = expand([parse_axis("seed=4"), parse_axis("average=logits"), parse_axis("target=least_likely")], BASE)
    assert (cell.settings.seed, cell.settings.average, cell.settings.target) == (4, "logits", "least_likely")


def test_names_of_directories_are_plain_and_differ():
    cells = expand([parse_axis("attack.names=('a/b', '..'),('a-b', '..'),('<é>',)," + repr("x" * 500))], BASE)
    names = [cell.name for cell in cells]
    assert len(set(names)) == 4
    assert all(name.isascii() and "/" not in name and len(name) < 140 for name in names)
    assert expand([parse_axis("eot=5")], BASE)[0].name == "eot=5"


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (["eot"], "NAME=VALUE,VALUE"),
        (["eott=1"], "did you mean eot"),
        (["model=a,b"], "one of: defense, attack, eot, average, votes, target, seed, attack.ARGUMENT"),
        (["attack.=1"], "cannot be over 'attack.'"),
        (["eot.samples=1"], "cannot be over 'eot.samples'"),
        (["eot="], "a list of values"),
        (["eot=1,,2"], "a list of values"),
        (["eot=1],[2"], "a list of values"),
        (["eot=x for x in y"], "a list of values"),
        (["eot=1.5"], "must be of integers, got 1.5"),
        (["eot=1,5,1"], "each value once, got 1 2 times"),
        (["eot=1", "eot=5"], "one axis of each name, got eot 2 times"),
        (["attack.stepz=1"], "did you mean steps"),
        (["attack.steps=1,2.5"], "steps must be an integer, got 2.5"),
        (["attack.eps=__import__('os').getpid()"], "literals"),
        (["attack=pgd,pdg"], "did you mean pgd"),
        (["eot=1,0"], "samples must be at least 1"),
        (["seed=0,-1"], "seed must be in"),
        (["target=0,3"], "target must be one of"),
        (["attack.eps=1/255,2/510"], r"\(attack.eps=1/255\) and \(attack.eps=2/510\) are the same evaluation"),
    ],
)
def test_refused_before_anything_runs(plans, tmp_path, axes, words):
    with pytest.raises(InputError, match=words):
        run_grid(plans(*axes), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_cells_are_the_runs_they_would_be_alone(plans, tmp_path):
    axes = "defense=smoothing(sigma=0.1),smoothing(sigma=0.2)", "eot=1,2", "seed=3,4"
    summaries = run_grid(plans(*axes), tmp_path / "grid")
    alone = plans(*axes)
    assert list(summaries) == list(alone)
    for cell, plan in alone.items():
        assert run(plan, tmp_path / cell.name)["config_hash"] == summaries[cell]["config_hash"]
        assert content(tmp_path / cell.name) == content(tmp_path / "grid" / cell.name)


def test_benign_votes_are_cast_once(plans, tmp_path):
    cells = plans("attack.steps=1,2,3", "defense=smoothing(sigma=0.1),smoothing(sigma=0.2)")
    classifier = next(iter(cells.values())).defended.classifier
    assert all(plan.defended.classifier is classifier for plan in cells.values())
    summaries = run_grid(cells, tmp_path / "grid")
    probes = 2  # one measurement of the rows of a pass for each defense
    saved = 2 * 2 * COUNT * VOTES  # of three cells of each defense, two cast no benign vote
    assert classifier.forwards == sum(summary["forwards"] for summary in summaries.values()) - saved + probes


def untimed(summary):
    return {key: value for key, value in summary.items() if not key.startswith("seconds")}


class Killed(Exception):
    pass


def test_killed_and_resumed_it_runs_only_what_is_missing(plans, tmp_path):
    axes, out = ("attack.steps=1,3", "eot=1,2"), tmp_path / "grid"
    began = []

    def dying(name, plan, directory, shared):
        began.append(name)
        if len(began) == 3:
            asked = iter((False, True))
            run(plan, directory, mode="resume", shared=shared, stop=lambda _: next(asked))
            raise Killed
        return run(plan, directory, mode="resume", shared=shared)

    with pytest.raises(Killed):
        run_grid(plans(*axes), out, run_cell=dying)
    with pytest.raises(InputError, match="holds another run"):
        run_grid(plans(*axes), out)
    batches = []

    def counting(name, plan, directory, shared):
        return run(plan, directory, lambda *_: batches.append(name), mode="resume", shared=shared)

    summaries = run_grid(plans(*axes), out, "resume", counting)
    assert batches == ["attack.steps=3, eot=1"] * 2 + ["attack.steps=3, eot=2"] * 3  # of three batches each
    whole = run_grid(plans(*axes), tmp_path / "whole")
    for cell, summary in whole.items():
        assert untimed(summaries[cell]) == untimed(summary)
        assert content(out / cell.name) == content(tmp_path / "whole" / cell.name)
    batches.clear()
    run_grid(plans("attack.steps=1,3", "eot=1,2,4"), out, "resume", counting)
    assert set(batches) == {"attack.steps=1, eot=4", "attack.steps=3, eot=4"}


def test_benign_votes_are_read_where_another_process_cast_them(plans, tmp_path, monkeypatch):
    run_grid(plans("eot=1"), tmp_path / "grid")
    phases, vote = [], shared_module.majority_vote

    def watching(*arguments, **settings):
        phases.append(settings["phase"])
        return vote(*arguments, **settings)

    monkeypatch.setattr(shared_module, "majority_vote", watching)
    run_grid(plans("eot=1,2"), tmp_path / "grid", "resume")
    assert phases == []
    run_grid(plans("eot=1,2"), tmp_path / "whole")
    assert len(phases) == 3
    for name in ("eot=1", "eot=2"):
        assert content(tmp_path / "grid" / name) == content(tmp_path / "whole" / name)


def test_a_grid_that_goes_on_keeps_the_rows_that_it_measured(plans, tmp_path, monkeypatch):
    """Also for a cell that could use more of them than those that are finished; other memory is free by then."""
    monkeypatch.setattr(shared_module, "resolve_chunk", lambda *arguments: 200)
    run_grid(plans("eot=1,60"), tmp_path / "whole")
    run_grid(plans("eot=1"), tmp_path / "grid")
    monkeypatch.setattr(shared_module, "resolve_chunk", lambda *arguments: 130)
    run_grid(plans("eot=1,60"), tmp_path / "grid", "resume")
    rows = [
        json.loads((tmp_path / grid / name / "run.json").read_text())["resolved_chunk"]
        for grid in ("whole", "grid")
        for name in ("eot=1", "eot=60")
    ]
    assert rows == [5 * VOTES, 200] * 2


def test_a_resumed_grid_of_other_settings_is_refused_before_it_runs(plans, tmp_path):
    run_grid(plans("eot=1,2"), tmp_path / "grid")
    ran = []
    changed = plans("eot=4,1", base=replace(BASE, votes=VOTES + 2))
    with pytest.raises(InputError, match=r"eot=1 differs first in votes: there 15, here 17"):
        run_grid(changed, tmp_path / "grid", "resume", lambda *arguments: ran.append(arguments))
    assert ran == []


def test_only_a_grid_is_resumed(plans, tmp_path):
    cells = plans("eot=1")
    run(next(iter(cells.values())), tmp_path / "run")
    with pytest.raises(InputError, match="holds another run"):
        run_grid(cells, tmp_path / "run", "resume")


def test_report_and_table(plans, tmp_path):
    out = tmp_path / "grid"
    summaries = run_grid(plans("attack.steps=1,3", "eot=1,2", "average=loss,logits"), out)
    page = write_grid_report(list(summaries), out).read_text()
    assert page.count('<table class="heat">') == 2  # one for each average
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http://" not in page
    assert "https://" not in page
    rows = list(csv.DictReader((out / "cells.csv").read_text().splitlines()))
    assert len(rows) == 8
    for row, (cell, summary) in zip(rows, summaries.items(), strict=True):
        assert (row["attack.steps"], row["eot"], row["average"]) == tuple(value for _, value in cell.choices)
        assert int(row["strength"]) == cell.settings.eot * int(row["attack.steps"])
        assert float(row["success_rate"]) == summary["success_rate"]
        assert float(row["success_rate_high"]) == summary["success_rate_ci95"][1]


def test_report_escapes_and_does_without_steps_or_attacked_images(plans, tmp_path):
    out = tmp_path / "grid"
    summaries = run_grid(plans("attack=noise,pgd(steps=1)", "target=0"), out)
    cell, other = summaries
    hostile = type(cell)((("attack", "<script>alert(1)</script>"), ("target", "0")), cell.settings)
    (out / cell.name).rename(out / hostile.name)
    page = write_grid_report([hostile, other], out).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert '<table class="heat">' not in page
    nothing = summaries[other] | {"success_rate": None, "success_rate_ci95": None}
    (out / other.name / "summary.json").write_text(json.dumps(nothing))
    assert "nothing was attacked" in write_grid_report([other], out).read_text()


def command(toy, tmp_path, monkeypatch, capsys, *words):
    """Status and output of `cannonade evaluate` on the toy, three batches to a cell."""
    options = {
        "--model": toy["model"],
        "--data": toy["data"],
        "--defense": BASE.defense,
        "--attack": BASE.attack,
        "--votes": str(VOTES),
        "--batch": "5",
        "--device": "cpu",
        "--out": str(tmp_path / "grid"),
    }
    words = (*(part for option in options.items() for part in option), *words)
    monkeypatch.setattr(sys, "argv", ["cannonade", "evaluate", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    seen = capsys.readouterr()
    return stop.value.code, seen.out + seen.err


def test_limits_and_interrupts_are_those_of_the_whole_command(toy, tmp_path, monkeypatch, capsys):
    axes = ("--grid", "attack.steps=1,2", "--grid", "eot=1,2")
    status, printed = command(toy, tmp_path, monkeypatch, capsys, *axes, "--max-gradients", str(COUNT + 1))
    assert status == 3, printed
    assert f"--out {tmp_path / 'grid'} --resume goes on" in printed
    begun = sorted(file.parent.name for file in (tmp_path / "grid").glob("*/batches.jsonl"))
    assert begun == ["attack.steps=1,eot=1", "attack.steps=1,eot=2"]

    asked, evaluate = [], run_module.evaluate_batch

    def interrupting(*arguments, **settings):
        asked.append(1)
        if len(asked) == 2:  # the last batch of a cell, one of whose three was finished before
            signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments, **settings)

    monkeypatch.setattr(run_module, "evaluate_batch", interrupting)
    status, printed = command(toy, tmp_path, monkeypatch, capsys, *axes, "--resume")
    assert status == 130, printed
    assert len(asked) == 2
    assert (tmp_path / "grid" / "attack.steps=1,eot=2" / "summary.json").is_file()

    for words in (("--resume",), ("--join",)):
        status, printed = command(toy, tmp_path, monkeypatch, capsys, *axes, *words)
        assert status == 0, printed
        assert "attack.steps=2, eot=2" in printed
    assert len(asked) == 2 + 2 * 3
    assert (tmp_path / "grid" / "report.html").is_file()
    assert (tmp_path / "grid" / "attack.steps=2,eot=2" / "report.html").is_file()
