"""`cannonade bench audit`: kernels compiled without a GPU."""

from typing import Annotated

import typer
from rich.console import Console

from cannonade.cli.app import console
from cannonade.cli.bench.app import Out, bench, save_rows
from cannonade.errors import InputError


@bench.command()
def audit(
    only: Annotated[
        list[str] | None, typer.Option(help="Start of a kernel's name; may be given several times.")
    ] = None,
    arch: Annotated[list[int] | None, typer.Option(help="Compute capability, such as 90. All five by default.")] = None,
    out: Out = None,
) -> None:
    """Compile every Triton kernel without a GPU: registers, spills, shared memory, accesses, and predicted time.

    Of all kernels, it also says what BaRT's programs cost beside the gradient of the classifier, by the same predictions.

    Ends with status 1 where a kernel does not compile, spills, takes too much shared memory or breaks a rule.
    """
    from rich.table import Table

    from cannonade.bench.audit import ARCHITECTURES, audit_all, cases
    from cannonade.bench.budget import costs, expected_microseconds, model_microseconds
    from cannonade.kernels.backend import triton

    if triton is None:
        raise InputError("the audit compiles with Triton, which is not installed here: it is for Linux only")
    chosen = [case for case in cases() if not only or any(case.name.startswith(start) for start in only)]
    if not chosen:
        raise InputError(f"no kernel's name starts with {', '.join(only or ())}: see `cannonade bench audit`")
    table = Table(
        "kernel", "arch", "registers", "spilled", "shared", "accesses", "barriers", "bytes/px", "× least", "ops/px",
        "H100 µs", "of model", box=None,
    )  # fmt: skip
    bare = model_microseconds()
    found = list(audit_all([case.name for case in chosen], arch or ARCHITECTURES))
    for row in found:
        accesses = " ".join(f"{kind.replace(' ', '')}×{count}" for kind, count in row.accesses.items())
        table.add_row(
            row.name, str(row.architecture), str(row.registers), str(row.spilled), str(row.shared), accesses,
            str(row.barriers), f"{row.bytes_per_pixel:.1f}", f"{row.overhead:.2f}", f"{row.operations:.0f}",
            f"{row.microseconds:.2f}", f"{row.microseconds / bare:.1%}",
        )  # fmt: skip
    Console(width=180).print(table)
    console.print(
        "H100 µs: predicted for one 224×224 image from bytes and operations, not measured; of model: of the bare gradient of "
        f"EfficientNet-Lite0, {bare:.0f} µs by the same prediction",
        highlight=False,
    )
    if not only:
        programs = Table("transform", "p in BaRT(5)", "µs forward and backward", "of model", box=None)
        spent = costs()
        for cost in spent:
            figures = ("no launchers", "") if cost.microseconds is None else (
                f"{cost.microseconds:.1f}", f"{cost.microseconds / bare:.1%}"
            )  # fmt: skip
            programs.add_row(cost.name, f"{cost.probability:.3f}", *figures)
        console.print(programs)
        total = expected_microseconds(spent)
        missing = sum(cost.microseconds is None for cost in spent)
        without = f"; without {missing} transforms that have no launchers, so too little" if missing else ""
        console.print(
            f"BaRT(5): Σ p·µs = {total:.1f} µs an image, {total / bare:.1%} of the bare gradient, predicted{without}",
            highlight=False,
        )
    save_rows(out, [row.as_json() for row in found])
    broken = [row for row in found if row.faults]
    for row in broken:
        console.print(f"{row.name} on sm_{row.architecture}: {'; '.join(row.faults)}", style="red", highlight=False)
    console.print(f"{len(found) - len(broken)} of {len(found)} pass", highlight=False)
    if broken:
        raise typer.Exit(1)
