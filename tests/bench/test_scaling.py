"""The cost along an axis: every point does the work of its value, the line is that of least squares, wrong work is refused."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from cannonade.attacks.eot import EOT
from cannonade.bench import scaling
from cannonade.bench.compare import compare
from cannonade.bench.scaling import AXES, Line, Point, Settings, fit, measure, parse_points
from cannonade.bench.scaling_plot import plot
from cannonade.bench.timing import Timing
from cannonade.cli import app
from cannonade.errors import InputError

TINY = "resnet_tiny(width=4)"
SETTINGS = Settings(model=TINY, side_model=TINY, batch=2, side=16)
PLAN = {"samples": (2, 5), "votes": (3, 7), "side": (16, 24), "batch": (1, 3), "k": (1, 3), "classes": (4, 12)}


@pytest.fixture
def counted(monkeypatch):
    """Times nothing: every work runs once, and what it made of the classifier is noted."""
    seen = []

    def once(cases, rounds, warmup):
        for value, case in cases.items():
            network = scaling._classifier(TINY, 10)
            network.forwards = network.gradients = 0
            result = case()
            seen.append((int(value), torch.get_num_threads(), network.forwards, network.gradients, result))
        return {name: Timing((0.001 * float(name),)) for name in cases}

    monkeypatch.setattr(scaling, "interleaved", once)
    return seen


def points_of(axis, times, threads=1):
    return [Point(axis, value, threads, time, (time, time), None) for value, time in times.items()]


def test_every_axis_does_the_work_of_its_value(counted):
    found = {lines[0].axis: points for points, lines in measure(PLAN, SETTINGS, threads=[1], rounds=1)}
    assert {name: tuple(point.value for point in points) for name, points in found.items()} == PLAN
    samples, votes, sides, batches, programs, classes = (counted[place : place + 2] for place in range(0, 12, 2))
    assert [row[2:4] for row in samples] == [(2 * 2, 2 * 2), (2 * 5, 2 * 5)]
    assert [row[2:4] for row in votes] == [(2 * 3, 0), (2 * 7, 0)]
    assert [row[4].gradient.shape for row in sides] == [(2, 3, 16, 16), (2, 3, 24, 24)]
    assert [row[3] for row in batches] == [1, 3]
    assert not torch.equal(programs[0][4].gradient, programs[1][4].gradient)
    assert [row[3] for row in classes] == [0, 0], "these are networks of other classes than ten"
    assert all(point.memory is None or point.memory >= 0 for points in found.values() for point in points)


def test_threads_are_set_and_put_back(counted):
    before = torch.get_num_threads()
    ((points, lines),) = measure({"votes": (1, 2)}, SETTINGS, threads=[2, 1], rounds=1)
    assert [row[1] for row in counted] == [2, 2, 1, 1]
    assert [(point.threads, point.value) for point in points] == [(2, 1), (2, 2), (1, 1), (1, 2)]
    assert [line.threads for line in lines] == [2, 1]
    assert torch.get_num_threads() == before


def test_the_line_is_found_and_says_how_well_it_fits():
    exact = fit("votes", points_of("votes", {n: 3 + 0.25 * n for n in (1, 8, 100)}))
    assert (exact.slope, exact.intercept, exact.r_squared) == pytest.approx((0.25, 3, 1))
    squared = fit("side", points_of("side", {side: 2 + 0.01 * side**2 for side in (8, 16, 64)}))
    assert (squared.slope, squared.intercept, squared.r_squared) == pytest.approx((0.01, 2, 1))
    bent = fit("votes", points_of("votes", {1: 0.0, 2: 3.0, 3: 0.0}))
    assert bent.r_squared == pytest.approx(0)


def test_gradients_that_hang_on_the_passes_are_not_timed(monkeypatch):
    estimate = EOT.estimate

    def off(self, defended, images, *rest):
        found = estimate(self, defended, images, *rest)
        return replace(found, gradient=found.gradient * (1.01 if self.chunk == len(images) else 1))

    monkeypatch.setattr(EOT, "estimate", off)
    with pytest.raises(InputError, match="must not depend on the rows"):
        next(measure({"samples": (1, 2)}, SETTINGS, threads=[1], rounds=1))


def test_gradients_that_are_not_finite_are_not_timed(monkeypatch):
    estimate = EOT.estimate

    def broken(self, *arguments):
        found = estimate(self, *arguments)
        return replace(found, gradient=found.gradient / 0)

    monkeypatch.setattr(EOT, "estimate", broken)
    with pytest.raises(InputError, match="be finite"):
        next(measure({"batch": (1, 2)}, SETTINGS, threads=[1], rounds=1))


@pytest.mark.parametrize(
    ("plan", "changes", "words"),
    [
        ({"steps": (1, 2)}, {}, "an axis is one of samples"),
        ({"votes": (3,)}, {}, "at least two points"),
        ({"votes": (3, 3)}, {}, "all different"),
        ({"k": (1, 2)}, {"program": "rotation"}, "with a k"),
        ({"votes": (0, 2)}, {}, "votes must be at least 1"),
    ],
)
def test_refusals(plan, changes, words):
    with pytest.raises(InputError, match=words):
        next(measure(plan, replace(SETTINGS, **changes), threads=[1], rounds=1))


def test_points_as_text():
    assert parse_points(["samples=1, 4", "k=2,3"]) == {"samples": (1, 4), "k": (2, 3)}
    for text in ("samples", "samples=", "samples=1,a", "samples=-1,2"):
        with pytest.raises(InputError, match="whole numbers"):
            parse_points([text])


def test_the_figure_has_a_column_for_each_axis():
    points = points_of("votes", {1: 2.0, 100: 30.0}) + points_of("k", {1: 2.0, 3: 4.0})
    figure = plot(points, [Line("votes", 1, 0.3, 1.7, 1.0), Line("k", 1, 1.0, 1.0, 1.0)])
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["votes", "k", "", ""]
    assert [panel.get_xscale() for panel in figure.axes[:2]] == ["log", "linear"]
    label = AXES["k"].variable
    assert figure.axes[3].get_xlabel() == label


def test_command(tmp_path):
    out = tmp_path / "scaling.json"
    arguments = [
        "--model", TINY, "--side", "16", "--batch", "2", "--rounds", "2", "--threads", "1", "--axis", "votes",
        "--axis", "k", "--points", "votes=1,6,20", "--out", str(out),
    ]  # fmt: skip
    ran = CliRunner().invoke(app, ["bench", "scaling", *arguments])
    assert ran.exit_code == 0, ran.output
    record = json.loads(out.read_text())
    assert [row["value"] for row in record["points"]] == [1, 6, 20, *AXES["k"].points]
    assert [row["axis"] for row in record["lines"]] == ["votes", "k"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not compare(out, out).missing
    assert {change.ratio for change in compare(out, out).changes} == {1.0}
    ran = CliRunner().invoke(app, ["bench", "scaling", "--axis", "votes", "--points", "k=1,2"])
    assert isinstance(ran.exception, InputError)
