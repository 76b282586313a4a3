"""Our attacks as foolbox's: `raw, clipped, is_adv = attack(fmodel, inputs, criterion, epsilons=[…])`."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from cannonade.attacks.attack import Attack
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.integrations.door import Between, as_defended, framework, with_fields
from cannonade.voting import majority_vote

foolbox: Any = framework("foolbox", "foolbox", "3.3.4", "3.3.4")
eagerpy: Any = framework("eagerpy", "eagerpy", "0.30.0", "0.30.0")  # foolbox's own tensors


def foolbox_model(defended: DefendedClassifier) -> Any:
    """The classifier as a `foolbox.PyTorchModel` of images in [0, 1], on the device where it is."""
    return foolbox.PyTorchModel(defended, bounds=(0, 1), device=defended.classifier.device)


class FoolboxAttack(foolbox.attacks.base.AttackWithDistance):  # type: ignore[misc]
    """One of our attacks, called as foolbox's.

    What foolbox decides by one forward pass, whether an image is adversarial, is decided by a majority vote.

    Args:
        attack: our attack; the call sets its `eps`.
        votes: n, predictions of the vote.
        rel_stepsize: step size as a multiple of each ε, as in foolbox; None keeps the attack's own.
    """

    def __init__(self, attack: Attack, *, votes: int = 100, rel_stepsize: float | None = None) -> None:
        self.attack = attack
        self.votes = votes
        self.rel_stepsize = rel_stepsize

    @property
    def distance(self) -> Any:
        """Foolbox's distance of the attack's norm."""
        return getattr(foolbox.distances, self.attack.norm)

    def repeat(self, times: int) -> "FoolboxAttack":
        """The attack with so many times its restarts, of which it returns the best; called again it would repeat itself."""
        restarts = times * getattr(self.attack, "restarts", 1)
        attack = with_fields(self.attack, restarts=restarts)
        return FoolboxAttack(attack, votes=self.votes, rel_stepsize=self.rel_stepsize)

    def __call__(
        self, model: Any, inputs: Any, criterion: Any, *, epsilons: float | Iterable[float]
    ) -> tuple[Any, Any, Any]:
        """Attack a batch, once for each ε.

        Args:
            model: `foolbox_model(defended)`, or a `foolbox.PyTorchModel` of any module with bounds (0, 1).
            inputs: [N, 3, H, W] in [0, 1], a tensor of PyTorch or eagerpy.
            criterion: labels, `Misclassification(labels)` or `TargetedMisclassification(targets)`.
            epsilons: one radius, or K of them.

        Returns:
            Adversarial images, the same again (ours never leave the bounds), and [N] bool, whether the vote satisfies the
            criterion; for several ε two lists of K and [K, N].

        Raises:
            InputError: a model, a criterion or an ε that our attacks do not know.
        """
        images, restore = eagerpy.astensor_(inputs)
        defended, goal = _defended(model), _goal(foolbox.attacks.base.get_criterion(criterion))
        found, reached = [], []
        for eps in epsilons if isinstance(epsilons, Iterable) else (epsilons,):
            result = self._at(eps)(defended, images.raw, goal)
            found.append(restore(eagerpy.astensor(result.images)))
            reached.append(goal.reached(majority_vote(defended, result.images, self.votes).labels))
        if isinstance(epsilons, Iterable):
            return found, list(found), restore(eagerpy.astensor(torch.stack(reached)))
        return found[0], found[0], restore(eagerpy.astensor(reached[0]))

    def _at(self, eps: float | None) -> Attack:
        if eps is None:
            raise InputError(
                "epsilons must be numbers, got None: our attacks stay in a ball and do not minimise its radius"
            )
        if self.rel_stepsize is None:
            return with_fields(self.attack, eps=eps)
        return with_fields(self.attack, eps=eps, step_size=self.rel_stepsize * eps)


def _goal(criterion: Any) -> Untargeted | Targeted:
    if type(criterion) is foolbox.criteria.Misclassification:
        return Untargeted(criterion.labels.raw.long())
    if type(criterion) is foolbox.criteria.TargetedMisclassification:
        return Targeted(criterion.target_classes.raw.long())
    raise InputError(f"criterion must be labels, Misclassification or TargetedMisclassification, got {criterion!r}")


def _defended(model: Any) -> DefendedClassifier:
    if not isinstance(model, foolbox.PyTorchModel):
        raise InputError(
            f"model must be a foolbox.PyTorchModel, got {type(model).__name__}; EOT is a part of our attack, not a wrapper"
        )
    if tuple(model.bounds) != (0, 1):
        raise InputError(
            f"the model's bounds must be (0, 1), got {tuple(model.bounds)}; use model.transform_bounds((0, 1))"
        )
    module = inspect.getclosurevars(model._model).nonlocals["model"]
    plain = all(value is None for value in model._preprocess_args)
    if isinstance(module, DefendedClassifier) and not plain:
        raise InputError("a DefendedClassifier normalises by itself: make its PyTorchModel without preprocessing")
    if plain:
        return as_defended(module)
    return as_defended(Between(module, lambda images: model._preprocess(eagerpy.astensor(images)).raw))
