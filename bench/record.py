"""`cannonade bench all`: the benches that need no data of the user's, one after the other, and their figures on one page."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cannonade.bench.json_files import read
from cannonade.bench.markdown import as_markdown, hardware, sentences
from cannonade.errors import InputError
from cannonade.files import replace_file


@dataclass(frozen=True)
class Bench:
    """A bench and how it is called.

    Attributes:
        name: of its files and its section.
        says: what its figures are, with their units.
        words: its options.
        quick: further ones, of a run that only shows that everything works.
        of: what stands after `cannonade bench`; None for its name.
    """

    name: str
    says: str
    words: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    of: str | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """What is called, without its options for a quick run."""
        return (self.of or self.name, *self.words)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_OVERHEAD = (
    "Milliseconds of one gradient or prediction of one image: ours, and the bare model's or another way's; the median of the "
    "rounds' ratios, and between which of them the true median lies with probability 0.94."
)
_QUICK_OVERHEAD = _words("--batch 2 --side 96 --rounds 1 --no-peers")

PLAN = (
    Bench("startup", "Seconds of whole processes, and what they should take at most.", quick=_words("--rounds 1")),
    Bench("overhead", _OVERHEAD, _words("--batch 8"), _QUICK_OVERHEAD),
    Bench(
        "overhead_resnet34",
        _OVERHEAD,
        _words("--model resnet34 --batch 4 --defense bart_gao(k=6) --defense bart(k=5)"),
        _QUICK_OVERHEAD,
        of="overhead",
    ),
    Bench(
        "overhead_cifar",
        _OVERHEAD,
        _words("--model cifar_resnet20 --side 32 --batch 16"),
        _words("--batch 2 --rounds 1 --no-peers"),
        of="overhead",
    ),
    Bench(
        "profile",
        "Milliseconds of one gradient of one image, and where they go; the parts add up to the time with the profiler.",
        quick=_words("--batch 2 --side 96 --rounds 1 --samples 1"),
    ),
    Bench(
        "scaling",
        "Milliseconds of a gradient or vote of the whole batch, MiB by which peak memory grows, and lines through the times.",
        quick=_words(
            "--batch 2 --rounds 1 --threads 1 --points samples=1,4 --points votes=1,8 --points side=32,64 "
            "--points batch=1,4 --points k=1,10 --points classes=10,1000"
        ),
    ),
    Bench(
        "transforms",
        "Milliseconds an image: ours forward and with the gradient, both by PyTorch, the oracle's; differences in units of "
        "[0, 1]; memory in sizes of the input.",
        quick=_words("--batch 4 --draws 1 --rounds 1 --only swirl --only hsv_shift --only bart_gao"),
    ),
    Bench(
        "certify",
        "Milliseconds and predictions of an image, and the share certified at the radius.",
        quick=_words("--limit 2 --n0 10 --n 100 --rounds 1"),
    ),
    Bench(
        "votes",
        "Mean votes used, by the share of the leader in all n, and labels other than that of all n; then seconds of a vote on "
        "one image, beside the authors' manner, of which the predictions that were timed are scaled to n.",
        _words("--defense bart_gao(k=6) --model efficientnet_lite0 --data samples --limit 20 --loop 5"),
        _words("--limit 4 --n 20 --loop 1 --rounds 1"),
    ),
    Bench(
        "loader",
        "Images a second; differences of pixels in units of [0, 1].",
        _words("--data samples"),
        _words("--rounds 1 --side 96"),
    ),
    Bench(
        "audit",
        "Kernels compiled without a GPU; microseconds of one 224×224 image on an H100 are predicted, not measured.",
        _words("--arch 90"),
        _words("--only votes"),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a bench.

    Attributes:
        bench: which.
        status: of its process; 0 where all is well.
        seconds: that it took.
        said: its last line on standard error, or on standard output where that is empty.
    """

    bench: Bench
    status: int
    seconds: float
    said: str


def choose(names: Sequence[str]) -> list[Bench]:
    """Benches of the plan by name, in its order; all of them where none is named.

    Raises:
        InputError: a name is none of theirs.
    """
    known = [each.name for each in PLAN]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"a bench of the record is one of {', '.join(known)}, got {unknown[0]!r}")
    return [each for each in PLAN if not names or each.name in names]


def run_all(
    benches: Sequence[Bench], out: Path, *, quick: bool, progress: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Run benches, each in a process of its own, going on after one that failed; then write the page.

    A bench writes NAME.json, and what it printed is NAME.txt; files of an earlier run are replaced, or gone where it failed.

    Args:
        benches: what to run.
        out: folder, made where it is not there.
        quick: in their shortest form.
        progress: called after each.
    """
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for each in benches:
        outcomes.append(_run(each, out, quick))
        progress(outcomes[-1])
    replace_file(out / "record.md", page(outcomes, out, quick=quick).encode())
    return outcomes


def _run(bench: Bench, out: Path, quick: bool) -> Outcome:
    target = out / f"{bench.name}.json"
    for suffix in (".json", ".png"):
        target.with_suffix(suffix).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "cannonade.cli",
        "bench",
        *bench.command,
        *(bench.quick if quick else ()),
    ]
    started = time.monotonic()
    wide = os.environ | {"COLUMNS": "160"}  # a table of figures is of no use folded
    done = subprocess.run(
        [*command, "--out", str(target)], capture_output=True, text=True, check=False, env=wide, encoding="utf-8"
    )
    replace_file(target.with_suffix(".txt"), (done.stdout + done.stderr).encode())
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Outcome(bench, done.returncode, time.monotonic() - started, lines[-1] if lines else "")


def page(outcomes: Sequence[Outcome], out: Path, *, quick: bool) -> str:
    """The record as Markdown.

    Args:
        outcomes: in the order of the page.
        out: where the benches' files are.
        quick: whether they ran in their shortest form.
    """
    contents = {each.bench.name: read(path) for each in outcomes if (path := out / f"{each.bench.name}.json").is_file()}
    machine = next((found for content in contents.values() if (found := hardware(content))), [])
    parts = ["# Record of speed", sentences(machine)]
    if quick:
        parts.append("Made with `--quick`: it shows that everything works, its figures are of no use.")
    for each in outcomes:
        parts += [f"## {each.bench.name}", each.bench.says]
        if each.status:
            parts.append(f"Failed with status {each.status}: {each.said}")
        if each.bench.name in contents:
            parts.append(as_markdown(contents[each.bench.name]))
        if (out / f"{each.bench.name}.png").is_file():
            parts.append(f"![{each.bench.name}]({each.bench.name}.png)")
    return "\n\n".join(part for part in parts if part) + "\n"
