"""Kernels without a GPU: tests marked `interpreter` run in Triton's interpreter, and `offline` compiles for real.

Triton decides whether to interpret a kernel when the kernel is defined, so one process cannot do both. All selected
tests with the mark run in one subprocess, and their reports appear here as if they had run in this process. To debug
one, run it as `TRITON_INTERPRET=1 pytest tests/kernels/test_philox.py -k NAME`: then everything runs in one process.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cannonade.kernels import native

MARK = "interpreter"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
REPORTS = pytest.StashKey[dict[str, list[pytest.TestReport]]]()


def pytest_addoption(parser):
    parser.addoption("--gpu", action="store_true", help=f"run the tests marked {MARK} on a GPU, not in the interpreter")


@pytest.fixture
def device(request):
    """Where Triton's kernels run: the CPU, by the interpreter, or with --gpu the GPU."""
    return torch.device("cuda" if request.config.getoption("--gpu") else "cpu")


def pytest_configure(config):
    config.addinivalue_line("markers", f"{MARK}: runs Triton's interpreter, in one subprocess for all such tests")
    config.addinivalue_line("markers", "native: runs native code; run once more under the compiler's sanitizers")


def pytest_runtest_setup(item):
    if item.get_closest_marker(MARK) and find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if item.get_closest_marker("native") and not native.available():
        pytest.skip("cannonade was installed without a C++ compiler")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if (
        INTERPRETED
        or find_spec("triton") is None
        or not item.get_closest_marker(MARK)
        or item.config.getoption("--gpu")
    ):
        return None
    if REPORTS not in item.session.stash:
        item.session.stash[REPORTS] = _run_interpreted(item.session)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.session.stash[REPORTS][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_interpreted(session):
    """Reports by test of all selected tests with the mark; a test that left none has failed."""
    items = [item for item in session.items if item.get_closest_marker(MARK)]
    reports = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reports.jsonl"
        command = [sys.executable, Path(__file__).with_name("interpreter.py"), path, *(item.nodeid for item in items)]
        child = subprocess.run(command, cwd=session.config.rootpath, capture_output=True, text=True, check=False)
        for line in path.read_text().splitlines() if path.exists() else ():
            report = session.config.hook.pytest_report_from_serializable(config=session.config, data=json.loads(line))
            if isinstance(report.longrepr, list):  # a skip's (path, line, reason), which JSON has no tuple for
                report.longrepr = tuple(report.longrepr)
            reports[report.nodeid].append(report)
    for item in items:
        if not any(report.when == "teardown" for report in reports[item.nodeid]):
            output = f"the interpreter's process ended with {child.returncode}\n{child.stdout}\n{child.stderr}"
            failed = pytest.TestReport(item.nodeid, item.location, {}, "failed", output, "call")
            reports[item.nodeid].append(failed)
    return reports


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled offline: its PTX, registers a thread, and bytes spilled."""

    ptx: str
    registers: int
    spilled: int


@pytest.fixture(params=[80, 90], ids=["sm_80", "sm_90"])
def offline(request, tmp_path):
    """A function that compiles a kernel for a GPU that need not be there: offline(kernel, types, **constants)."""
    triton = pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("kernels are being interpreted")

    def compile_offline(kernel, types, aligned=(), **constants):
        """Types are Triton's names by argument; pointers, and integers in `aligned`, are multiples of 16."""
        signature = types | dict.fromkeys(constants, "constexpr")
        multiples = [i for i, (name, kind) in enumerate(types.items()) if kind.startswith("*") or name in aligned]
        source = triton.compiler.ASTSource(
            kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in multiples}
        )
        target = triton.backends.compiler.GPUTarget("cuda", request.param, 32)
        ptx = triton.compile(source, target=target).asm["ptx"]
        path = tmp_path / "kernel.ptx"
        path.write_text(ptx)
        arch = re.search(r"\.target (\w+)", ptx)[1]
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={arch}", path, "-o", tmp_path / "kernel.cubin"]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        spilled = sum(int(size) for size in re.findall(r"(\d+) bytes spill", log))
        return Compiled(ptx, registers=int(re.search(r"Used (\d+) registers", log)[1]), spilled=spilled)

    return compile_offline
