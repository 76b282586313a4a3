"""Fast, exact and repeatable attacks on stochastic pre-processing defenses of image classifiers.

A defended classifier is a classifier behind a random transform; an attack is a dataclass of hyper-parameters that is called
on it; a majority vote judges the result::

    from cannonade import EOT, PGD, DefendedClassifier, build_defense, load_model, majority_vote

    defended = DefendedClassifier(load_model("efficientnet_lite0"), build_defense("rotation(degrees=90)"))
    attack = PGD(eps=8 / 255, steps=50, step_size=1 / 255, gradient=EOT(samples=5))
    adversarial = attack(defended, images, labels).images
    votes = majority_vote(defended, adversarial, n=500)
"""

from importlib import import_module
from typing import Any

# Resolved on first use, so that importing the package, as `cannonade --help` does, does not wait for torch.
_HOMES = {
    "AttackResult": "cannonade.attacks.attack",
    "AutoPGD": "cannonade.attacks.auto_pgd",
    "Classifier": "cannonade.classifier",
    "DefendedClassifier": "cannonade.defended",
    "Draws": "cannonade.draws",
    "EOT": "cannonade.attacks.eot",
    "InputError": "cannonade.errors",
    "Mixed": "cannonade.attacks.goals",
    "PGD": "cannonade.attacks.pgd",
    "Phase": "cannonade.draws",
    "Targeted": "cannonade.attacks.goals",
    "Transform": "cannonade.transforms.base",
    "Untargeted": "cannonade.attacks.goals",
    "Votes": "cannonade.voting",
    "build_defense": "cannonade.defenses",
    "evaluate_batch": "cannonade.evaluation.outcome",
    "load_model": "cannonade.models",
    "majority_vote": "cannonade.voting",
    "open_source": "cannonade.data.sources",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cannonade' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
