"""From the words of the command line to a plan."""

from dataclasses import replace
from pathlib import Path

import torch

from cannonade.attacks import ATTACKS
from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.chunking import Chunk
from cannonade.data.sources import open_source
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.errors import InputError
from cannonade.evaluation.run import Plan
from cannonade.models import load_model
from cannonade.spec import build

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def assemble(
    *,
    model: str,
    data: str,
    defense: str,
    attack: str,
    weights: Path | None = None,
    samples: int = 1,
    average: str = "loss",
    votes: int = 500,
    target: int | None = None,
    limit: int | None = None,
    batch: int = 32,
    chunk: str = "auto",
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
) -> Plan:
    """Build every part of a run from its name; the cheap parts first, so that a slip of the pen is answered at once.

    Raises:
        InputError: a name, an argument, a file or a device that cannot be used.
    """
    if precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    part = build_defense(defense)
    pgd: PGD = build(attack, ATTACKS, "attack")
    rows = _chunk(chunk)
    pgd = replace(pgd, gradient=EOT(samples=samples, average=average, chunk=rows))  # type: ignore[arg-type]
    place = _device(device)
    source = open_source(data).limited(limit)
    exact_arithmetic()
    classifier = load_model(model, weights=weights, device=place, autocast=_PRECISIONS[precision])
    return Plan(
        model=model,
        defended=DefendedClassifier(classifier, part, seed=seed),
        data=data,
        source=source,
        attack=pgd,
        votes=votes,
        target=target,
        batch=batch,
        chunk=rows,
        device=place,
    )


def exact_arithmetic() -> None:
    """Float32 as IEEE has it and the same kernels every time: no TF32, no autotuned and no nondeterministic convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _chunk(text: str) -> Chunk:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"chunk must be at least 1, or 'auto', got {text!r}")
    return int(text)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device must be one that this machine has, got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return device
