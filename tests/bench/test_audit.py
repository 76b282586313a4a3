"""The audit of kernels sees what it exists to see: each fault is planted once."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cannonade.bench import audit as module
from cannonade.bench.audit import audit, audit_all, cases, predicted
from cannonade.bench.budget import costs, expected_microseconds, kernels_of, model_microseconds
from cannonade.cli import app
from cannonade.kernels.backend import jit, tl, triton
from cannonade.kernels.device.case import Case
from cannonade.transforms.denoising import GaussianBlur
from cannonade.transforms.geometry import RandomResizePad

pytestmark = pytest.mark.skipif(triton is None, reason="Triton is not installed")


@jit
def _copy(out_ptr, x_ptr, N: tl.constexpr):
    place = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out_ptr + place, tl.load(x_ptr + place))


@jit
def _sum_atomically(out_ptr, x_ptr, N: tl.constexpr):
    tl.atomic_add(out_ptr + tl.arange(0, N) % 2, tl.load(x_ptr + tl.arange(0, N)))


@jit
def _divide(out_ptr, x_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    tl.store(out_ptr + tl.arange(0, N), tl.floor(1.0 / x))


@jit
def _multiply(out_ptr, x_ptr, N: tl.constexpr):
    place = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    x = tl.load(x_ptr + place)
    tl.store(out_ptr + place, tl.dot(x, x))


@jit
def _hoard(out_ptr, x_ptr, N: tl.constexpr):
    # One warp scans a tile that no register file holds, and needs all of it after the scan.
    place = tl.arange(0, N)
    x = tl.load(x_ptr + place)
    tl.store(out_ptr + place, tl.cumsum(x, 0) + x)


@jit
def _fail(out_ptr, x_ptr, N: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, N), nothing)  # noqa: F821 — what it is there for


def case(kernel, size=128, **changes):
    settings = {"bytes_per_pixel": 8, "least_bytes": 8} | changes
    types = {"out_ptr": "*fp32", "x_ptr": "*fp32"}
    return Case(name="planted", kernel=kernel, types=types, constants={"N": size}, **settings)


def test_a_copy_passes_in_wide_accesses():
    row = audit(case(_copy, 1024), 90)
    assert row.faults == ()
    assert row.accesses == {"load 128": 2, "store 128": 2}
    assert (row.spilled, row.overhead) == (0, 1)
    assert 0 < row.registers < 64
    assert row.microseconds == predicted(8 * 224 * 224, 0)


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        (case(_sum_atomically), "adds floats atomically"),
        (case(_divide), "div.full"),
        (case(_multiply, 32), "TF32"),
        (case(_hoard, 1 << 14, warps=1), "spills"),
        (case(_fail), "does not compile"),
        (case(_copy, bytes_per_pixel=17), "moves 2.1 times the least"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults_are_found(planted, fault):
    (found,) = (text for text in audit(planted, 90).faults if fault in text)
    assert found


def test_a_reason_given_is_a_fault_no_more():
    assert audit(case(_divide, approximate="only here to be seen"), 90).faults == ()
    assert audit(case(_copy, bytes_per_pixel=17, reason="only here to be seen"), 90).faults == ()


def test_names_of_cases_differ():
    names = [known.name for known in cases()]
    assert len(names) == len(set(names)) > 0


def test_a_pool_keeps_the_order(monkeypatch):
    monkeypatch.setattr(module, "_JOBS_OF_A_POOL", 2)
    names = ("votes", "L∞ step")
    found = list(audit_all(names, (90, 80)))
    assert [(row.name, row.architecture) for row in found] == [(name, at) for name in names for at in (90, 80)]
    assert [row.faults for row in found] == [()] * 4


def test_what_programs_cost():
    """Each of the five groups of an image has one member; a blur is two kernels and their adjoints, once each."""
    found = costs()
    assert sum(cost.probability for cost in found) == pytest.approx(5)
    by_name = {cost.name: cost.microseconds for cost in found}
    blur = [case for case in cases() if case.name.startswith("blur")]
    assert by_name["gaussian_blur"] == pytest.approx(
        sum(predicted(case.bytes_per_pixel * 224 * 224, case.operations * 224 * 224) for case in blur)
    )
    assert 0 < expected_microseconds(found) < sum(cost for cost in by_name.values() if cost is not None)


def test_launches_are_listed_with_their_arguments():
    first, *_ = kernels_of(GaussianBlur())
    assert first.kernel.__name__ == "_blur_kernel"
    assert (first.arguments["ALONG"], first.arguments["height"]) == (0, 224)
    assert kernels_of(RandomResizePad()) is None


def test_the_bare_model():
    """Its 385 M multiplications take a third of the time that what its layers write, 54 MB, is moved in."""
    assert model_microseconds() == pytest.approx(92, rel=0.02)


def test_command(tmp_path):
    out = tmp_path / "audit.json"
    ran = CliRunner().invoke(app, ["bench", "audit", "--only", "votes", "--arch", "90", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "1 of 1 pass" in ran.output
    (row,) = json.loads(out.read_text())
    assert row["name"] == "votes"
    assert row["faults"] == []
