"""Our attacks as secml-torch's: `attack(model, loader)` returns a loader of adversarial images."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack
from cannonade.attacks.goals import Goal, Targeted, Untargeted
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.integrations.door import Between, as_defended, framework

_base: Any = framework("secmlt.adv.evasion.base_evasion_attack", "secml-torch", "1.5", "1.5")
_models: Any = framework("secmlt.models.pytorch.base_pytorch_nn", "secml-torch", "1.5", "1.5")
_identity: Any = framework("secmlt.models.data_processing.identity_data_processing", "secml-torch", "1.5", "1.5")


class SecmlAttack(_base.BaseEvasionAttack):  # type: ignore[misc]
    """One of our attacks, called as secml-torch's.

    The image at place i of the loader has id i, so that the loader's batch size changes nothing.

    Args:
        attack: our attack.
        y_target: the class that all images shall be taken for; None for any wrong one.
    """

    def __init__(self, attack: Attack, y_target: int | None = None) -> None:
        self.attack = attack
        self.y_target = y_target

    def _run_batches(self, model: Any, data_loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        defended, start = _defended(model), 0
        for images, labels in data_loader:
            ids = torch.arange(start, start + len(images))
            images, labels = images.to(defended.classifier.device), labels.to(defended.classifier.device)
            yield self.attack(defended, images, self._goal(labels), ids=ids).images, labels
            start += len(images)

    def _goal(self, labels: Tensor) -> Goal:
        if self.y_target is None:
            return Untargeted(labels)
        return Targeted(torch.full_like(labels, self.y_target), labels)


def _defended(model: Any) -> DefendedClassifier:
    """The module of a `BasePyTorchClassifier`, with what stands before and behind it."""
    if all(
        isinstance(step, _identity.IdentityDataProcessing) for step in (model._preprocessing, model._postprocessing)
    ):
        return as_defended(model.model)
    if isinstance(model.model, DefendedClassifier):
        raise InputError(
            "a DefendedClassifier must stand alone in BasePyTorchClassifier, got it with further processing"
        )
    return as_defended(Between(model.model, model._preprocessing, model._postprocessing))
