"""AutoAttack's calls, `run_standard_evaluation(x, y, bs)` and APGD's `perturb(x, y)`, by our attacks and votes.

AutoAttack counts an image as broken as soon as one prediction is wrong, also if only by luck. Here votes decide: those of the
selection phase which image an attack keeps, and a final vote what is reported.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.integrations.door import as_defended
from cannonade.integrations.robustbench import NORM_OF
from cannonade.voting import majority_vote

_LOSSES = {"ce": "cross_entropy", "dlr": "dlr"}
_ATTACKS = {"apgd-ce": "ce", "apgd-dlr": "dlr"}
_RAND = ("apgd-ce", "apgd-dlr")


class APGDAttack:
    """A drop-in for `autoattack.autopgd_base.APGDAttack`: our `AutoPGD` with EOT in batches.

    Args:
        predict: what is attacked; see `door.as_defended`.
        n_iter: steps.
        norm: "Linf", "L2" or "L1".
        n_restarts: how often to start.
        eps: radius of the ball in units of [0, 1].
        seed: of all draws; None keeps the classifier's.
        loss: "ce" or "dlr".
        eot_iter: m, draws of a step.
        rho: share of rising steps below which a step size is halved.
        device: where to run; where the model is, by default.
        votes: n, predictions of the votes that decide what is adversarial.

    Raises:
        InputError: a norm, a loss or a number that cannot be used.
    """

    def __init__(
        self,
        predict: nn.Module,
        n_iter: int = 100,
        norm: str = "Linf",
        n_restarts: int = 1,
        eps: float = 0.3,
        seed: int | None = None,
        loss: str = "ce",
        eot_iter: int = 1,
        rho: float = 0.75,
        *,
        device: torch.device | str | None = None,
        votes: int = 100,
    ) -> None:
        if norm not in NORM_OF:
            raise InputError(f"norm must be one of {', '.join(NORM_OF)}, got {norm!r}")
        if loss not in _LOSSES:
            raise InputError(f"loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        self.defended = _prepared(predict, seed, device)
        self.votes = votes
        self.attack = AutoPGD(
            eps=eps,
            steps=n_iter,
            norm=NORM_OF[norm],
            loss=_LOSSES[loss],
            restarts=n_restarts,
            rho=rho,
            gradient=EOT(samples=eot_iter),
        )

    def perturb(self, x: Tensor, y: Tensor | None = None, best_loss: bool = False) -> Tensor:
        """Attack a batch.

        Args:
            x: [N, 3, H, W] in [0, 1].
            y: [N] int64, the true labels; by default those of a majority vote on x.
            best_loss: return every image at its largest loss, rather than those alone that a vote finds adversarial, and the
                others as they were.

        Returns:
            [N, 3, H, W].
        """
        return self._perturb(x, y, best_loss, torch.arange(len(x)))[0]

    def _perturb(self, x: Tensor, y: Tensor | None, best_loss: bool, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The images to return, and [N] bool, which of them the vote of the selection phase finds adversarial."""
        images = x.detach().to(self.defended.classifier.device)
        labels = self._vote(images, ids) if y is None else y.to(images.device)
        found = self.attack(self.defended, images, labels, ids=ids).images
        broken = self._vote(found, ids) != labels
        kept = found if best_loss else torch.where(broken[:, None, None, None], found, images)
        return kept.to(x.device), broken.to(x.device)

    def _vote(self, images: Tensor, ids: Tensor) -> Tensor:
        return majority_vote(self.defended, images, self.votes, phase=Phase.SELECTION, ids=ids).labels


class AutoAttack:
    """A drop-in for `autoattack.AutoAttack` in its version for randomised defenses.

    Args:
        model: what is attacked; see `door.as_defended`.
        norm: "Linf", "L2" or "L1".
        eps: radius of the ball in units of [0, 1].
        seed: of all draws; None keeps the classifier's.
        verbose: print accuracies, as AutoAttack does.
        attacks_to_run: for version "custom", some of "apgd-ce" and "apgd-dlr".
        version: "rand", both; or "custom". AutoAttack's "standard" attacks deterministic classifiers.
        device: where to run; where the model is, by default.
        n_iter: steps of each attack.
        eot_iter: m, draws of a step.
        votes: n, predictions of each vote.

    Attributes:
        clean_accuracy, robust_accuracy: shares of the last evaluation, by vote.

    Raises:
        InputError: a version or an attack that is not here.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "rand",
        *,
        device: torch.device | str | None = None,
        n_iter: int = 100,
        eot_iter: int = 20,
        votes: int = 100,
    ) -> None:
        if version not in ("rand", "custom"):
            raise InputError(
                f"version must be 'rand' or 'custom', got {version!r}; AutoAttack itself is for deterministic classifiers"
            )
        names = tuple(attacks_to_run) if version == "custom" else _RAND
        if not names or not set(names) <= _ATTACKS.keys():
            raise InputError(
                f"attacks_to_run must be some of {', '.join(_ATTACKS)} for version 'custom', got {list(names)}"
            )
        self.defended = _prepared(model, seed, device)
        self.verbose = verbose
        self.votes = votes
        self.clean_accuracy = self.robust_accuracy = float("nan")
        self._attacks = {
            name: APGDAttack(self.defended, n_iter, norm, eps=eps, loss=_ATTACKS[name], eot_iter=eot_iter, votes=votes)
            for name in names
        }

    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attack what is right, attack after attack, and vote on what they leave.

        Args:
            x_orig: [N, 3, H, W] in [0, 1].
            y_orig: [N] int64, the true labels.
            bs: images attacked at once; it changes nothing else.
            return_labels: also return the labels of the final vote.

        Returns:
            [N, 3, H, W], adversarial where an attack succeeded, else as it was; with labels [N] where asked for.
        """
        found, labels = self._run(x_orig, y_orig, bs, list(self._attacks))
        return (found, labels) if return_labels else found

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]:
        """The same of each attack alone, by its name."""
        found = {name: self._run(x_orig, y_orig, bs, [name]) for name in self._attacks}
        return found if return_labels else {name: images for name, (images, _) in found.items()}

    def _run(self, x: Tensor, y: Tensor, bs: int, names: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.arange(len(x))
        y = y.to(x.device)
        clean = self._vote(x, Phase.BENIGN_VOTE) == y
        self._say("clean", clean)
        found, left = x.detach().clone(), clean.clone()
        for name in names:
            for rows in left.nonzero()[:, 0].split(bs):
                images, broken = self._attacks[name]._perturb(x[rows], y[rows], False, ids[rows.cpu()])
                found[rows[broken]] = images[broken]
                left[rows[broken]] = False
            self._say(f"after {name}, by the selection vote", left)
        labels = self._vote(found, Phase.FINAL_VOTE)
        robust = clean & (labels == y)
        self._say("robust", robust)
        self.clean_accuracy, self.robust_accuracy = (float(right.double().mean()) for right in (clean, robust))
        return found, labels

    def _vote(self, x: Tensor, phase: Phase) -> Tensor:
        images = x.to(self.defended.classifier.device)
        return majority_vote(self.defended, images, self.votes, phase=phase).labels.to(x.device)

    def _say(self, what: str, right: Tensor) -> None:
        if self.verbose:
            print(f"{what}: {float(right.double().mean()):.2%}")


def _prepared(model: nn.Module, seed: int | None, device: torch.device | str | None) -> DefendedClassifier:
    defended = as_defended(model)
    if seed is not None:
        defended = DefendedClassifier(defended.classifier, defended.defense, seed=seed)
    return defended if device is None else defended.to(device)
