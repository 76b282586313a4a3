"""What a run does with any attack: name it, give it a gradient and a chunk, guess what it costs."""

from dataclasses import fields, replace
from typing import Any, cast

from cannonade.attacks import ATTACKS
from cannonade.attacks.attack import Attack
from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.chunking import Chunk
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.spec import call_text


def with_gradient(attack: Attack, gradient: EOT) -> Attack:
    """The attack with this estimator of its gradients; an attack without any takes only the chunk.

    Raises:
        InputError: the attack takes no gradients, yet some were to be averaged.
    """
    if _has(attack, "gradient"):
        return _replaced(attack, gradient=gradient)
    if gradient != EOT(chunk=gradient.chunk):
        raise InputError(f"{_name(attack)} takes no gradients to average: leave --eot and --average at their defaults")
    return with_chunk(attack, gradient.chunk)


def with_chunk(attack: Attack, chunk: Chunk) -> Attack:
    """The attack with this chunk."""
    part: Any = attack
    if _has(attack, "gradient"):
        return _replaced(attack, gradient=replace(part.gradient, chunk=chunk))
    return _replaced(attack, chunk=chunk) if _has(attack, "chunk") else attack


def attack_calls(attack: Attack) -> dict[str, str]:
    """The attack and its gradient as the calls that make them: their numbers, and what else is not at its default."""
    plain, part = with_chunk(attack, "auto"), cast(Any, attack)
    if not _has(attack, "gradient"):
        return {"attack": call_text(_name(attack), plain), "gradient": "none"}
    return {
        "attack": call_text(_name(attack), _replaced(attack, gradient=EOT())),
        "gradient": call_text(type(part.gradient).__name__.lower(), replace(part.gradient, chunk="auto")),
    }


def samples_of(attack: Attack) -> int:
    """m, the draws of one estimate or one question."""
    part: Any = attack
    return int(getattr(part.gradient if _has(attack, "gradient") else part, "samples", 1))


def expected_gradients(attack: Attack) -> int:
    """About how many gradients an image will cost."""
    part: Any = attack
    return int(part.restarts * part.steps * samples_of(attack)) if _has(attack, "gradient") else 0


def expected_forwards(attack: Attack, defended: DefendedClassifier) -> int:
    """About how many forward passes an image will cost."""
    if isinstance(attack, AutoPGD):
        steering = attack.steering_draws(defended)
        return attack.restarts * (attack.steps + 1) * (attack.gradient.samples + steering)
    if isinstance(attack, PGD):
        return attack.restarts * attack.steps * attack.gradient.queries
    return int(getattr(attack, "queries", 0))


def _name(attack: Attack) -> str:
    return next((name for name, kind in ATTACKS.items() if type(attack) is kind), type(attack).__name__)


def _has(attack: Attack, name: str) -> bool:
    return any(field.name == name for field in fields(cast(Any, attack)))


def _replaced(attack: Attack, **values: Any) -> Attack:
    return cast(Attack, replace(cast(Any, attack), **values))
