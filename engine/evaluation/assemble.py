"""From the words of the command line to a plan."""

from pathlib import Path

import torch

from cannonade.attacks import ATTACKS
from cannonade.attacks.eot import EOT
from cannonade.attacks.targets import parse_target
from cannonade.errors import InputError
from cannonade.evaluation.recipe import with_gradient
from cannonade.evaluation.run import Plan
from cannonade.evaluation.subject import open_subject, parse_chunk
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
    target: str | None = None,
    limit: int | None = None,
    batch: int = 32,
    chunk: str = "auto",
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    restrict: bool = False,
) -> Plan:
    """Build every part of a run from its name; the cheap parts first, so that a slip of the pen is answered at once.

    Raises:
        InputError: a name, an argument, a file or a device that cannot be used.
    """
    if precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    bare = build(attack, ATTACKS, "attack")
    aim = None if target is None else parse_target(target)
    rows = parse_chunk(chunk)
    armed = with_gradient(bare, EOT(samples=samples, average=average, chunk=rows))  # type: ignore[arg-type]
    subject = open_subject(
        model=model, data=data, defense=defense, weights=weights, limit=limit, seed=seed, device=device,
        restrict=restrict, autocast=_PRECISIONS[precision],
    )  # fmt: skip
    return Plan(
        model=f"{model}, {subject.defended.num_classes} classes kept" if restrict else model,
        defended=subject.defended,
        data=data,
        source=subject.source,
        attack=armed,
        votes=votes,
        target=aim,
        batch=batch,
        chunk=rows,
        device=subject.device,
    )
