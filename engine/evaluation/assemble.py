"""From the words of the command line to plans."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from cannonade.attacks import ATTACKS
from cannonade.attacks.attack import Attack
from cannonade.attacks.eot import EOT
from cannonade.attacks.targets import parse_target
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.errors import InputError
from cannonade.evaluation.grid import Settings
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.recipe import with_gradient
from cannonade.evaluation.subject import open_subject, parse_chunk
from cannonade.spec import build
from cannonade.voting import Stop

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def assemble(
    evaluations: Sequence[Settings],
    *,
    model: str,
    data: str,
    weights: Path | None = None,
    limit: int | None = None,
    batch: int = 32,
    chunk: str = "auto",
    device: str = "auto",
    precision: str = "float32",
    restrict: bool = False,
    stop: str = "none",
    alpha: float = 1e-3,
) -> list[Plan]:
    """Build the parts of evaluations of one model on the same images from their names.

    The cheap parts come first, so that a slip of the pen is answered at once.

    Args:
        evaluations: at least one.
        model, data, weights, limit, batch, chunk, device, precision, restrict, stop, alpha: as on the command line.

    Raises:
        InputError: a name, an argument, a file or a device that cannot be used.
    """
    if precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    rows = parse_chunk(chunk)
    attacks = [_armed(each, rows) for each in evaluations]
    targets = [None if each.target is None else parse_target(each.target) for each in evaluations]
    defenses = [build_defense(each.defense) for each in evaluations]
    first = evaluations[0]
    subject = open_subject(
        model=model, data=data, defense=first.defense, weights=weights, limit=limit, seed=first.seed, device=device,
        restrict=restrict, autocast=_PRECISIONS[precision],
    )  # fmt: skip
    return [
        Plan(
            model=f"{model}, {subject.defended.num_classes} classes kept" if restrict else model,
            defended=DefendedClassifier(subject.defended.classifier, defense, seed=each.seed),
            data=data,
            source=subject.source,
            attack=attack,
            votes=each.votes,
            stop=None if stop == "none" else cast(Stop, stop),
            alpha=alpha,
            target=target,
            batch=batch,
            chunk=rows,
            device=subject.device,
        )
        for each, attack, target, defense in zip(evaluations, attacks, targets, defenses, strict=True)
    ]


def _armed(settings: Settings, rows: Chunk) -> Attack:
    attack: Attack = build(settings.attack, ATTACKS, "attack")
    eot = EOT(samples=settings.eot, average=settings.average, chunk=rows)  # type: ignore[arg-type]
    return with_gradient(attack, eot)
