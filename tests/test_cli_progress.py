"""What a run tells whoever watches: a log gets lines, at most one every ten seconds, and a pipe nothing."""

import os

import pytest

from cannonade.cli import progress


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_file_is_a_log_and_a_pipe_is_nobody(kind, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    stream = (tmp_path / "log").open("w") if kind == "file" else os.fdopen(writer, "w")
    with stream:
        monkeypatch.setattr(progress.sys, "stdout", stream)
        assert progress._audience() == {"file": "log", "pipe": "nobody"}[kind]
    os.close(reader)
    if kind == "file":
        os.close(writer)


def test_lines_come_seldom_and_judge_by_this_process_alone(monkeypatch):
    """Of 100 images 40 were there and 10 were the first batch; two images a second follow."""
    clock, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "_say", said.append)
    finished = progress._lines("run", 100)
    for now, images in ((30, 50), (32, 54), (38, 66), (41, 72), (55, 100)):
        clock[0] = now
        finished(images, {"success_rate": 0.5, "gradients": 300, "seconds": 20.0})
    assert said == [
        "run: 50/100 images, success 50.0 %, 15.0 gradients/s",
        "run: 72/100 images, success 50.0 %, 15.0 gradients/s, 14 s left",
        "run: 100/100 images, success 50.0 %, 15.0 gradients/s, 0 s left",
    ]


def test_clock():
    words = {5: "5 s", 65: "1 min 05 s", 3700: "1 h 01 min", 200_000: "2 d 7 h"}
    assert {seconds: progress._clock(seconds) for seconds in words} == words
