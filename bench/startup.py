"""`cannonade bench startup`: what a user waits for before anything is computed, in processes of their own, in turn."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cannonade.bench.timing import interleaved
from cannonade.errors import InputError

HELP_SECONDS = 1.0
GRADIENT_SECONDS = 6.0
IMPORT_RATIO = 1.3  # of the time that torch and torchvision take themselves

_TORCH = "import torch, torchvision"
_ALL = "import of all public names"
_MARK = "first gradient"
_IMPORTS = {
    "python alone": "pass",
    "import cannonade": "import cannonade",
    _TORCH: _TORCH,
    _ALL: "import cannonade; [getattr(cannonade, name) for name in cannonade.__all__]",
}


@dataclass(frozen=True)
class Start:
    """One kind of process.

    Attributes:
        what: it does.
        seconds: from its start to its end, or to its first gradient; the median of the rounds.
        quartiles: the first and the third.
        target: seconds that it should take at most; None where there is no target.
    """

    what: str
    seconds: float
    quartiles: tuple[float, float]
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is as quick as it should be."""
        return None if self.target is None else self.seconds <= self.target

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(*, random_weights: bool = False, data: str = "samples", rounds: int = 5) -> list[Start]:
    """Start every kind of process once to warm the machine's caches, and then time them in turn.

    Args:
        random_weights: of EfficientNet-Lite0, where the pip package with the published ones is not installed.
        data: images for the first gradient.
        rounds: how often each is timed.

    Raises:
        InputError: rounds is below 1, or a process failed; its last words are in the message.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    cases: dict[str, Callable[[], object]] = {
        what: _process([sys.executable, "-c", code]) for what, code in _IMPORTS.items()
    }
    program = [sys.executable, "-m", "cannonade.cli"]
    cases["cannonade --help"] = _process([*program, "--help"])
    cases[_MARK] = _until_gradient([*program, *_evaluation(random_weights, data)])
    timed = interleaved(cases, rounds)
    targets = {
        "cannonade --help": HELP_SECONDS,
        _ALL: IMPORT_RATIO * timed[_TORCH].median,
        _MARK: GRADIENT_SECONDS,
    }
    return [Start(what, timing.median, timing.quartiles, targets.get(what)) for what, timing in timed.items()]


def _evaluation(random_weights: bool, data: str) -> list[str]:
    """Words of an evaluation of one image; with a target that it is surely not classified as, so that it is attacked."""
    model = "announcing_random" if random_weights else "announcing"
    return [
        "evaluate", "--model", f"{__name__}:{model}", "--data", data, "--limit", "1", "--defense", "smoothing(sigma=0.1)",
        "--attack", "pgd(eps=1/255, steps=1, step_size=1/255)", "--votes", "1", "--target", "least_likely", "--out", "run",
    ]  # fmt: skip


def announcing() -> Any:
    """EfficientNet-Lite0 as `evaluate` loads it; says on standard output that a gradient has gone through it."""
    from cannonade.models import load_model

    return _announced(load_model("efficientnet_lite0"))


def announcing_random() -> Any:
    """The same with random weights."""
    from cannonade.bench.subjects import random_network
    from cannonade.classifier import Classifier

    source = random_network("efficientnet_lite0", 1000)
    return _announced(Classifier(source.module, mean=source.mean, std=source.std, input_size=source.input_size))


def _announced(classifier: Any) -> Any:
    classifier.register_full_backward_hook(lambda *_: print(_MARK, flush=True))
    return classifier


def _process(command: list[str]) -> Callable[[], None]:
    """A process from start to end."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _failed(command, done.returncode, done.stderr)

    return run


def _until_gradient(command: list[str]) -> Callable[[], None]:
    """A process up to its first gradient; it is killed there, which belongs to what is timed and takes milliseconds."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "stderr").open("w+") as errors:
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
                found = any(line.strip() == _MARK for line in _lines(child))
                if found:
                    child.kill()
            if not found:
                errors.seek(0)
                raise _failed(command, child.returncode, errors.read())

    return run


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    return iter(child.stdout or ())


def _failed(command: list[str], status: int, said: str) -> InputError:
    lines = said.strip().splitlines()
    words = " ".join(command[1:])
    return InputError(
        f"every process must do what is timed, but `python {words}` ended with status {status}: {lines[-1] if lines else '—'}"
    )
