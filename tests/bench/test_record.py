"""All benches one after the other: a failure is said and stops nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cannonade.bench import record
from cannonade.bench.record import PLAN, Bench, choose
from cannonade.cli import app
from cannonade.cli.bench import bench
from cannonade.errors import InputError

TINY = Bench(
    "scaling",
    "Tiny.",
    ("--axis", "votes", "--points", "votes=1,3", "--model", "resnet_tiny(width=4)", "--side", "16", "--threads", "1"),
    ("--rounds", "1", "--batch", "2"),
)


def test_goes_on_after_a_failure_and_ends_with_status_1(tmp_path, monkeypatch):
    failing = Bench("votes", "Votes.", ("--model", "no|such", "--data", "samples", "--defense", "swirl"))
    monkeypatch.setattr(record, "PLAN", (failing, TINY))
    (tmp_path / "votes.json").write_text(json.dumps({"rows": [{"from": "an earlier run"}]}))
    ran = CliRunner().invoke(app, ["bench", "all", "--quick", "--out", str(tmp_path)])
    assert ran.exit_code == 1, ran.output
    assert "failed: votes" in ran.output
    assert not (tmp_path / "votes.json").exists()
    page = (tmp_path / "record.md").read_text()
    assert page.index("## votes") < page.index("Failed with status 2") < page.index("## scaling")
    assert "no|such" in page
    assert "earlier" not in page
    assert "![scaling](scaling.png)" in page
    assert "batch 2" in page, "--quick adds its words"
    points = json.loads((tmp_path / "scaling.json").read_text())["points"]
    for point in points:
        assert f"| votes | {point['value']} | 1 | {point['milliseconds']:.4g} |" in page
    assert "R²" in (tmp_path / "scaling.txt").read_text()


def test_without_failures_the_status_is_0(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 0, "fine\n", "")
    monkeypatch.setattr(record.subprocess, "run", lambda command, **_: done)
    ran = CliRunner().invoke(app, ["bench", "all", "--only", "loader", "--only", "startup", "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert [line.split(",")[0] for line in ran.output.splitlines()[:2]] == ["startup", "loader"]
    assert "--quick" not in (tmp_path / "record.md").read_text()


def test_the_plan_names_benches_and_options_that_exist():
    known = {(each.name or each.callback.__name__): each.callback for each in bench.registered_commands}
    for each in PLAN:
        options = known[each.command[0]].__annotations__
        for word in (*each.words, *each.quick):
            if word.startswith("--"):
                assert word[2:].removeprefix("no-").replace("-", "_") in options, (each.name, word)
    with pytest.raises(InputError, match="one of startup, overhead"):
        choose(["nothing"])


def test_pytest_bench_runs_the_cases():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "bench", "-q", "--benchmark-disable", "-k", "bare or smoothing"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 4 deselected" in done.stdout
