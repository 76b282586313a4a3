"""Attacks of other libraries on a module, each called as its users call it, with one draw of the defense per forward pass.

Every function takes a `DefendedClassifier`, whose `forward` makes fresh draws, and returns adversarial images. The libraries
that average over draws in a loop do so themselves; ART does not for foreign defenses, so its gradient is averaged as the
paper's authors did, by replacing `loss_gradient`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cannonade.integrations.adv_lib import import_adv_lib
from cannonade.kernels.backend import on_device


@dataclass(frozen=True)
class Budget:
    """What every attack is given: a ball in L∞, k steps of a size, and m draws per step."""

    eps: float
    steps: int
    step_size: float
    samples: int


PeerAttack = Callable[[nn.Module, Tensor, Tensor, Budget], Tensor]


def torchattacks_eotpgd(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """`torchattacks.EOTPGD`: the sum of the gradients of m losses."""
    import torchattacks

    attack: Any = torchattacks.EOTPGD(
        model,
        eps=budget.eps,
        alpha=budget.step_size,
        steps=budget.steps,
        eot_iter=budget.samples,
        random_start=False,
    )
    return torch.as_tensor(attack(images, labels))


def foolbox_eot(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """`foolbox.attacks.LinfPGD` through its `ExpectationOverTransformationWrapper`: the loss of the mean of m logits."""
    foolbox: Any = import_module("foolbox")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=budget.step_size, steps=budget.steps, random_start=False)
    wrapped = foolbox.models.ExpectationOverTransformationWrapper(
        foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device), n_steps=budget.samples
    )
    _, clipped, _ = attack(wrapped, images, foolbox.criteria.Misclassification(labels), epsilons=budget.eps)
    return torch.as_tensor(clipped)


def art_pgd(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """ART's `ProjectedGradientDescentNumpy`, which asks the estimator for gradients; here for the mean of m."""
    from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
        ProjectedGradientDescentNumpy,
    )
    from art.estimators.classification import PyTorchClassifier

    classes = int(model(images[:1]).shape[1])
    with on_device(images):  # ART takes the current GPU
        estimator = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            images.shape[1:],
            classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
    single = estimator.loss_gradient

    def mean_gradient(x: Any, y: Any, **kwargs: Any) -> Any:
        return sum(single(x, y, **kwargs) for _ in range(budget.samples)) / budget.samples

    estimator.loss_gradient = mean_gradient
    attack = ProjectedGradientDescentNumpy(
        estimator,
        eps=budget.eps,
        eps_step=budget.step_size,
        max_iter=budget.steps,
        batch_size=len(images),
        verbose=False,
    )
    with _seeded():
        found = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(found).to(images.device)


def pyautoattack_apgd(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """pyautoattack's APGD-CE with eot_iter; best loss."""
    from pyautoattack.autopgd_base import APGDAttack

    attack: Any = APGDAttack(
        model, n_iter=budget.steps, eps=budget.eps, eot_iter=budget.samples, loss="ce", device=images.device
    )
    with _seeded():
        return torch.as_tensor(attack.perturb(images, labels, best_loss=True))


def adv_lib_apgd(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """One run of adv_lib's APGD with the cross-entropy loss and eot_iter; best loss.

    Not through its `apgd`, which with `best_loss` forgets `n_iter` and always takes 100 steps.
    """
    run = import_adv_lib("adv_lib.attacks.auto_pgd")._apgd
    settings: Any = {"norm": float("inf"), "loss_function": "ce"}
    eps = images.new_full((len(images),), budget.eps)
    with _seeded():
        best, _, _, _ = run(model, images, labels, eps, n_iter=budget.steps, eot_iter=budget.samples, **settings)
    return torch.as_tensor(best.detach())


def secml_torch_pgd(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> Tensor:
    """secml-torch's native PGD, which has no loop over draws: `budget.samples` must be 1."""
    if budget.samples != 1:
        raise ValueError(f"secml-torch averages no draws, got {budget.samples}; let the classifier average them")
    pgd: Any = import_module("secmlt.adv.evasion.pgd").PGD
    attack = pgd("linf", budget.eps, num_steps=budget.steps, step_size=budget.step_size, backend="native")
    found = attack(model, DataLoader(TensorDataset(images, labels), batch_size=len(images)))
    return torch.cat([batch for batch, _ in found])


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The global generator, which these libraries draw from, seeded and put back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
