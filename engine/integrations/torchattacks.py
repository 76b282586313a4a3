"""Our attacks as torchattacks': `atk(images, labels)`, with its targeted modes and its normalisation."""

from typing import Any

import torch
from torch import Tensor, nn

from cannonade.attacks.attack import Attack
from cannonade.attacks.goals import Goal, Targeted, Untargeted
from cannonade.attacks.targets import mean_probabilities, random_targets
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.integrations.door import as_defended, framework

torchattacks: Any = framework("torchattacks", "torchattacks", "3.5.1", "3.5.1")


class TorchattacksAttack(torchattacks.attack.Attack):  # type: ignore[misc]
    """One of our attacks, called as `torchattacks.Attack`: `atk(images, labels)` in [0, 1].

    Equal calls return equal images: targets drawn at random come from the classifier's seed. The least likely class is that of
    the mean probabilities over draws, where torchattacks looks at one.

    Args:
        model: what is attacked; see `door.as_defended`. A `DefendedClassifier` keeps its own normalisation, so that
            `set_normalization_used` is for other modules.
        attack: our attack, such as `PGD(eps=8 / 255, gradient=EOT(samples=10))`.
    """

    def __init__(self, model: nn.Module, attack: Attack) -> None:
        super().__init__(type(attack).__name__, model)
        self.supported_mode = ["default", "targeted"]
        self.settings = attack

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Attack a batch; `torchattacks.Attack.__call__` has undone the normalisation.

        Args:
            inputs: [N, 3, H, W] in [0, 1].
            labels: [N] int64, the true labels; after `set_mode_targeted_by_label`, the targets.

        Raises:
            InputError: there are no labels, or images and labels that do not fit.
        """
        if labels is None:
            raise InputError("labels must be given: the true ones, or the targets after set_mode_targeted_by_label")
        images, labels = inputs.to(self.device), labels.to(self.device)
        return self.settings(self._defended(), images, self._goal(images, labels)).images

    def get_random_target_label(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Any class but the label, by the classifier's seed: [N] int64."""
        defended = self._defended()
        ids = torch.arange(len(inputs), device=inputs.device)
        return random_targets(labels, defended.num_classes, defended.seed, ids)

    def get_least_likely_label(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The class of the k-th least mean probability, labels left out: [N] int64."""
        likely = mean_probabilities(self._defended(), inputs, torch.arange(len(inputs), device=inputs.device))
        likely = likely.scatter(1, labels[:, None], torch.inf)
        return likely.kthvalue(self._kth_min, dim=1).indices

    def _goal(self, images: Tensor, labels: Tensor) -> Goal:
        if not self.targeted:
            return Untargeted(labels)
        targets = self.get_target_label(images, labels)
        return Targeted(targets, None if self.attack_mode == "targeted(label)" else labels)

    def _defended(self) -> DefendedClassifier:
        if self.normalization_used is None:
            return as_defended(self.model)
        mean, std = (self.normalization_used[name].flatten().tolist() for name in ("mean", "std"))
        return as_defended(self.model, mean=mean, std=std)
