"""Real photos, where to find real data, and kernels without a GPU.

Tests marked `interpreter` run in Triton's interpreter, and the fixture `offline` compiles for real. Triton decides whether to
interpret a kernel when the kernel is defined, so one process cannot do both. All selected tests of a file with the mark run in
one subprocess, and their reports appear here as if they had run in this process. To debug one, run it as
`TRITON_INTERPRET=1 pytest tests/kernels/test_philox.py -k NAME`: then everything runs in one process.
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

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cannonade.classifier import Classifier
from cannonade.kernels import native

# The tests issue many small operations; two threads bring them nothing, and cost ten times as much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """Eight ImageNet photos: [8, 3, 224, 224] float32 in [0, 1]."""
    folder = Path(find_spec("foolbox").submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))[:8]
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 255


class Patches(nn.Module):
    """Three classes: which third of the image is the brightest."""

    def forward(self, images):
        return torch.stack([part.mean((1, 2, 3)) for part in images.split((3, 3, 2), dim=3)], dim=1) * 20


def patches() -> Classifier:
    return Classifier(Patches(), input_size=(8, 8), class_names=("left", "middle", "right"))


@pytest.fixture
def toy(tmp_path) -> dict[str, str]:
    """A classifier and twelve images that it has right, as the options --model and --data name them."""
    pixels = np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32) * 0.3 + 0.3
    labels = np.arange(12) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[:, (slice(0, 3), slice(3, 6), slice(6, 8))[label]] += 0.08
    np.savez(tmp_path / "toy.npz", images=pixels, labels=labels)
    return {"model": f"{__name__}:patches", "data": str(tmp_path / "toy.npz")}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ImageNette and the CIFAR-10 models, which the project does not ship; tests skip without it."""
    root = Path(os.environ.get("CANNONADE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no ImageNette and CIFAR-10 data: set CANNONADE_SHARED_DATA to their folder")
    return root


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
    config.addinivalue_line(
        "markers", f"{MARK}: runs Triton's interpreter, in one subprocess for all such tests of a file"
    )
    config.addinivalue_line("markers", "native: runs native code; run once more under the compiler's sanitizers")


def pytest_runtest_setup(item):
    if item.get_closest_marker(MARK) and find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if item.get_closest_marker("native") and not native.available():
        pytest.skip("cannonade was installed without a C++ compiler")
    torch.manual_seed(0)  # the networks that a test builds have the same weights in every run


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if (
        INTERPRETED
        or find_spec("triton") is None
        or not item.get_closest_marker(MARK)
        or item.config.getoption("--gpu")
    ):
        return None
    reports = item.session.stash.setdefault(REPORTS, {})
    if item.nodeid not in reports:
        reports |= _run_interpreted(item.session, item.path)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.session._setupstate.teardown_exact(nextitem)  # what an earlier test set up and the next one does not share
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_interpreted(session, file):
    """Reports by test of all selected tests of a file with the mark; a test that left none has failed."""
    items = [item for item in session.items if item.path == file and item.get_closest_marker(MARK)]
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
