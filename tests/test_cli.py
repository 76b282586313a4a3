"""The command line on real photos with the real classifier, and its answers to bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cannonade.cli import app

PROGRAM = [sys.executable, "-c", "from cannonade.cli import main; main()"]
GOOD = {
    "--model": "efficientnet_lite0",
    "--data": "samples",
    "--defense": "rotation(degrees=90)",
    "--attack": "pgd(eps=8/255, steps=3, step_size=2/255)",
    "--votes": "5",
    "--limit": "4",
}


def cannonade(*arguments, cwd):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False, timeout=300
    )


def evaluate(changes, cwd):
    options = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return cannonade("evaluate", *(part for option in options.items() for part in option), cwd=cwd)


def test_evaluate(tmp_path):
    done = evaluate({"--out": "run", "--eot": "2"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rotation(degrees=90)" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    keys = (
        "images attacked benign_accuracy success_rate success_rate_ci95 null_success_rate gradients_per_image forwards "
        "seconds seed config_hash"
    )
    assert set(keys.split()) <= set(summary)
    assert summary["images"] == 4
    assert summary["gradients_per_image"] == 6
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_help_is_quick_and_does_not_load_torch(tmp_path):
    probe = "import sys, cannonade.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
    assert "evaluate" in cannonade("--help", cwd=tmp_path).stdout


BAD = [
    ({"--defense": "rotation(degrees=ninety)"}, "literals"),
    ({"--defense": "rotaton"}, "did you mean rotation"),
    ({"--defense": "rotation(angle=3)"}, "its arguments"),
    ({"--attack": "pgd(eps=8)"}, "for 8/255 write 8/255"),
    ({"--attack": "pgd(steps=0)"}, "steps must be at least 1"),
    ({"--attack": "pdg()"}, "did you mean pgd"),
    ({"--votes": "0"}, "votes must be at least 1"),
    ({"--eot": "0"}, "samples must be at least 1"),
    ({"--average": "median"}, "average must be"),
    ({"--chunk": "many"}, "chunk must be"),
    ({"--seed": "-1"}, "seed must be in"),
    ({"--model": "efficientnet_lite9"}, "efficientnet_lite0"),
    ({"--model": "no.such.module:make"}, "no.such.module"),
    ({"--weights": "missing.pth"}, "missing.pth"),
    ({"--data": "nowhere"}, "data must be"),
    ({"--data": "empty"}, "found none"),
    ({"--data": "truncated"}, "0.jpg"),
    ({"--data": "labels.npz"}, "labels must be in 0 … 999"),
    ({"--data": "grey.npz"}, "must be RGB"),
    ({"--data": "range.npz"}, "floats in [0, 1]"),
    ({"--limit": "0"}, "limit must be at least 1"),
    ({"--target": "1000"}, "target must be"),
    ({"--target": "anyone"}, "'least_likely' or 'random'"),
    ({"--attack": "auto_pgd(loss='dlr_targeted')"}, "a target and a true label for every image"),
    ({"--out": "used"}, "holds another run"),
    ({"--out": "/proc/cannonade"}, "cannot be written|can be written"),
    ({"--device": "cuda:99"}, "device must be"),
    ({"--precision": "float8"}, "precision must be"),
    ({"--grid": "attack.stepz=1,2"}, "did you mean steps"),
    ({"--grid": "batch=1,2"}, "grid cannot be over 'batch'"),
]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "used").mkdir()
    (folder / "used" / "summary.json").write_text("{}")
    (folder / "truncated" / "3").mkdir(parents=True)
    (folder / "truncated" / "3" / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    image = np.zeros((1, 224, 224, 3), dtype=np.float32)
    np.savez(folder / "labels.npz", images=image, labels=np.array([1000]))
    np.savez(folder / "grey.npz", images=image[..., :1], labels=np.array([1]))
    np.savez(folder / "range.npz", images=image + 255, labels=np.array([1]))
    return folder


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_bad_input_is_one_line_and_status_2(changes, words, bad_files, capsys, monkeypatch):
    """In this process, because starting torch anew for each would take minutes; the next test starts it for real."""
    from cannonade import cli

    monkeypatch.chdir(bad_files)
    options = {**GOOD, **changes}
    monkeypatch.setattr(
        sys, "argv", ["cannonade", "evaluate", *(part for option in options.items() for part in option)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert any(word in error for word in words.split("|")), error
    assert error.startswith("cannonade: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_bad_input_of_a_real_process(tmp_path):
    done = evaluate({"--attack": "pgd(eps=8)"}, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = evaluate({"--out": "locked/run"}, tmp_path)
    assert done.returncode == 2
    assert "can be written" in done.stderr


def test_info_says_which_route_the_kernels_take(monkeypatch):
    from cannonade.kernels import native

    for built, text in ((True, "native code"), (False, "no C++ compiler was found")):
        monkeypatch.setattr(native, "available", lambda built=built: built)
        ran = CliRunner().invoke(app, ["info"])
        assert ran.exit_code == 0, ran.output
        assert text in ran.output


def test_interrupted_evaluation_ends_with_130_and_resumes(tmp_path):
    out = tmp_path / "run"
    arguments = ["evaluate", "--model", "efficientnet_lite0", "--data", "samples", "--limit", "5", "--batch", "1"]
    arguments += ["--defense", "smoothing(sigma=0.1)", "--attack", "pgd(eps=1/255, steps=3, step_size=1/255)"]
    arguments += ["--votes", "6", "--device", "cpu", "--out", str(out)]
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not (out / "batches.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "--resume goes on" in printed
    assert not (out / "summary.json").exists()
    limited = subprocess.run(
        [*PROGRAM, *arguments, "--resume", "--max-gradients", "1"], check=False, capture_output=True, text=True
    )
    assert limited.returncode == 3, limited.stdout
    assert "a limit was reached" in limited.stdout
    assert subprocess.run([*PROGRAM, *arguments, "--resume"], check=False, capture_output=True).returncode == 0
    records = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert len(records) == 5
    assert (out / "report.html").is_file()
