"""`cannonade bench audit`: every Triton kernel compiled for real, without a GPU, and judged by what the compiler made of it.

What the interpreter cannot see stands in the PTX and in the machine code: registers, spills, shared memory, the widths of
global accesses, approximate division and square root, matrix products in TF32. Times are predictions from bytes and
operations, never measurements.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from cannonade.kernels import device
from cannonade.kernels.backend import triton
from cannonade.kernels.device.case import Case

ARCHITECTURES = (80, 89, 90, 100, 120)
SHARED = 99 * 1024  # bytes a program may have on every one of them
PIXELS = 224 * 224
# NVIDIA H100 SXM data sheet: HBM3 in bytes/s, and float32 operations/s outside tensor cores. Predictions take this share of
# either, as good kernels do.
_BANDWIDTH = 3.35e12
_OPERATIONS = 67e12
_SHARE = 0.7
_JOBS_OF_A_POOL = 12  # fewer are done before other processes have started


@dataclass(frozen=True)
class Audit:
    """One kernel on one architecture.

    Attributes:
        name: of the case.
        architecture: compute capability without its point.
        registers: of a thread.
        spilled: bytes of spill stores and loads.
        shared: bytes of shared memory of a program.
        accesses: counts of global loads and stores by width in bits, such as "load 128".
        barriers: in the machine code.
        bytes_per_pixel: as the case states.
        overhead: bytes_per_pixel over the least possible.
        operations: as the case states.
        microseconds: predicted time of one 224×224 image on an H100; one image of a large batch.
        faults: what is against the rules; empty for a kernel that passes.
    """

    name: str
    architecture: int
    registers: int
    spilled: int
    shared: int
    accesses: dict[str, int]
    barriers: int
    bytes_per_pixel: float
    overhead: float
    operations: float
    microseconds: float
    faults: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def cases() -> list[Case]:
    """How every kernel of `cannonade.kernels.device` is compiled."""
    modules = [import_module(f"{device.__name__}.{info.name}") for info in iter_modules(device.__path__)]
    return [case for module in modules for case in getattr(module, "CASES", ())]


def audit_all(names: Sequence[str], architectures: Sequence[int]) -> Iterator[Audit]:
    """Judge cases by name on every architecture, in this order, in as many processes as there are cores.

    Compiling is what takes the time, and it holds a process's interpreter lock.
    """
    jobs = list(product(names, architectures))
    if len(jobs) < _JOBS_OF_A_POOL:
        yield from (_audit_named(*job) for job in jobs)
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_audit_named, *zip(*jobs, strict=True))


def _audit_named(name: str, architecture: int) -> Audit:
    (case,) = (known for known in cases() if known.name == name)
    return audit(case, architecture)


def audit(case: Case, architecture: int) -> Audit:
    """Compile a case and judge it."""
    try:
        compiled = _compile(case, architecture)
    except Exception as error:  # whatever a compiler may raise is a finding, not the end of the audit
        fault = (
            f"does not compile: {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}"
        )
        return Audit(case.name, architecture, 0, 0, 0, {}, 0, case.bytes_per_pixel, 0, case.operations, 0, (fault,))
    ptx, registers, spilled = compiled.asm["ptx"], *_assembled(compiled.asm["ptx"], architecture)
    accesses, barriers = _machine_code(compiled.asm["cubin"])
    overhead = case.bytes_per_pixel / case.least_bytes if case.least_bytes else 1.0
    shared = int(compiled.metadata.shared)
    return Audit(
        name=case.name,
        architecture=architecture,
        registers=registers,
        spilled=spilled,
        shared=shared,
        accesses=accesses,
        barriers=barriers,
        bytes_per_pixel=case.bytes_per_pixel,
        overhead=overhead,
        operations=case.operations,
        microseconds=predicted(case.bytes_per_pixel * PIXELS, case.operations * PIXELS),
        faults=tuple(_faults(case, ptx, spilled, shared, overhead)),
    )


def predicted(moved: float, operations: float) -> float:
    """Microseconds on an H100, by the slower of memory and arithmetic."""
    return 1e6 * max(moved / _BANDWIDTH, operations / _OPERATIONS) / _SHARE


def _compile(case: Case, architecture: int) -> Any:
    signature = dict(case.types) | dict.fromkeys(case.constants, "constexpr")
    multiples = [
        place for place, (name, kind) in enumerate(case.types.items()) if kind.startswith("*") or name in case.aligned
    ]
    source = triton.compiler.ASTSource(
        case.kernel,
        signature,
        dict(case.constants),
        {(place,): [["tt.divisibility", 16]] for place in multiples},
    )
    target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
    options = {"num_warps": case.warps, "enable_fp_fusion": case.fusion, "maxnreg": case.most_registers}
    return triton.compile(source, target=target, options=options)


def _assembled(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers, and bytes spilled, from the assembler's own account."""
    knobs = triton.knobs.nvidia
    assembler = knobs.ptxas.path
    blackwell = Path(assembler).with_name("ptxas-blackwell")
    if architecture >= 100 and blackwell.exists():
        assembler = str(blackwell)
    found = re.search(r"\.target (\w+)", ptx)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [assembler, "-v", f"-arch={found[1] if found else ''}", path, "-o", path.with_suffix(".cubin")]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", log)
    return int(used[1]) if used else 0, sum(int(size) for size in re.findall(r"(\d+) bytes spill", log))


def _machine_code(cubin: bytes) -> tuple[dict[str, int], int]:
    """Global accesses by width, and barriers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", path]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    accesses: dict[str, int] = {}
    for operation, modifiers in re.findall(r"\b(LDG|STG)((?:\.\w+)*)", listing):
        width = next((int(part) for part in re.findall(r"\.U?(8|16|64|128)\b", modifiers)), 32)
        key = f"{'load' if operation == 'LDG' else 'store'} {width}"
        accesses[key] = accesses.get(key, 0) + 1
    return dict(sorted(accesses.items())), len(re.findall(r"\bBAR\.", listing))


def _faults(case: Case, ptx: str, spilled: int, shared: int, overhead: float) -> Iterator[str]:
    if spilled:
        yield f"spills {spilled} bytes"
    if shared > SHARED:
        yield f"takes {shared} bytes of shared memory, more than {SHARED}"
    if re.search(r"mma\S*\.tf32", ptx):
        yield "multiplies matrices in TF32"
    if re.search(r"\b(red|atom)\.\S*\.f(16|32|64)", ptx):
        yield "adds floats atomically, in no fixed order"
    approximate = sorted(set(re.findall(r"\b(div\.full|div\.approx|sqrt\.approx)\b", ptx)))
    if approximate and not case.approximate:
        yield f"has {', '.join(approximate)} and does not say why that does no harm"
    if overhead > 2 and not case.reason:
        yield f"moves {overhead:.1f} times the least bytes and does not say why"


def model_gradient_microseconds(bytes_per_image: float, operations_per_image: float) -> float:
    """The bare model's gradient by the same prediction: forward and backward each move its activations twice.

    Args:
        bytes_per_image: that its layers write in a forward pass.
        operations_per_image: multiplications with an addition, each two operations forward and two backward, where weights
            are frozen.
    """
    return predicted(4 * bytes_per_image, 4 * operations_per_image)
