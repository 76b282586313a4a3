"""`cannonade bench frameworks`: both directions of every adapter on real photos, judged by the same votes.

Their attacks meet our defended classifier twice with the same k·m gradients: with their own loop over m draws, and with one
draw of theirs on a classifier that averages m in its forward; the two are compared image by image. Our attack is then called as
each framework calls its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import pairwise
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.bench import peers
from cannonade.bench.peers import Budget, PeerAttack
from cannonade.defended import DefendedClassifier
from cannonade.evaluation.paired import Paired
from cannonade.integrations.adv_lib import AdvLibAttack
from cannonade.integrations.autoattack import APGDAttack
from cannonade.integrations.judging import judge

# What each peer averages over its draws: our classifier's mean of logits is foolbox's, the others average losses.
THEIRS: dict[str, tuple[str, PeerAttack, bool]] = {
    "torchattacks": ("EOTPGD", peers.torchattacks_eotpgd, True),
    "foolbox": ("LinfPGD, EOT wrapper", peers.foolbox_eot, True),
    "ART": ("PGD, mean gradient", peers.art_pgd, True),
    "AutoAttack": ("APGD-CE", peers.pyautoattack_apgd, True),
    "adv_lib": ("APGD-CE", peers.adv_lib_apgd, True),
    "secml-torch": ("PGD", peers.secml_torch_pgd, False),  # its own EOT ascends the wrong way
}

How = TypeVar("How")
OurAttack = Callable[[DefendedClassifier, Tensor, Tensor, PGD], Tensor]


@dataclass(frozen=True)
class Row:
    """One attack on the same images.

    Attributes:
        framework: whose call; "none" for our attack called as it is.
        direction: "theirs" for its attack on our classifier, "ours" for our attack called as its own.
        what: the attack, and how it averages draws.
        success: share of images that the vote finds wrong.
        lucky: share that one prediction finds wrong and the vote does not.
        seconds: of the attack, without the vote.
        fooled: whether the vote is wrong, image by image.
    """

    framework: str
    direction: str
    what: str
    success: float
    lucky: float
    seconds: float
    fooled: list[bool]

    def as_json(self) -> dict[str, Any]:
        """Plain values, without those of single images."""
        return {name: value for name, value in vars(self).items() if name != "fooled"}


@dataclass(frozen=True)
class Pair:
    """A framework's attack with its own loop over draws, and with our mean of them, on the same images.

    Attributes:
        framework: whose attack.
        success: shares of images, with the loop and in one call.
        counts: the images that each broke, the loop first.
        speed: seconds of the loop over those of the call.
    """

    framework: str
    success: tuple[float, float]
    counts: Paired
    speed: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        own, counts = vars(self), self.counts
        return {name: own[name] for name in ("framework", "success", "speed")} | {
            "only": (counts.only_first, counts.only_second), "p": counts.p, "points_ci95": counts.interval(),
        }  # fmt: skip


def pairs(rows: Sequence[Row]) -> Iterator[Pair]:
    """Compare the two ways of each framework that has both; rows are those of `measure`."""
    theirs = [row for row in rows if row.direction == "theirs"]
    for loop, one in pairwise(theirs):
        if loop.framework == one.framework:
            success, speed = (loop.success, one.success), loop.seconds / one.seconds
            yield Pair(loop.framework, success, Paired.of(loop.fooled, one.fooled), speed)


def measure(
    defended: DefendedClassifier,
    images: Tensor,
    labels: Tensor,
    budget: Budget,
    *,
    votes: int,
    batch: int = 20,
    adapters: bool = True,
) -> Iterator[Row]:
    """Attack with everything and judge.

    Args:
        defended: the classifier.
        images: [N, 3, H, W] in [0, 1], those that the vote gets right.
        labels: [N] int64.
        budget: of every attack.
        votes: n, of the final vote.
        batch: images that an attack gets at once.
        adapters: also ours, called as theirs; without, only what `pairs` compares.
    """

    def row(framework: str, direction: str, what: str, attack: Callable[[Tensor, Tensor], Tensor]) -> Row:
        start = perf_counter()
        parts = zip(images.split(batch), labels.split(batch), strict=True)
        found = torch.cat([attack(own.clone(), truth).detach().to(images.dtype) for own, truth in parts])
        seconds = perf_counter() - start
        judged = judge(defended, found, labels, votes=votes, originals=images, eps=budget.eps)
        success, lucky = (float(flags.double().mean()) for flags in (judged.success, judged.lucky))
        return Row(framework, direction, what, success, lucky, seconds, judged.success.tolist())

    m = budget.samples
    once = replace(budget, samples=1)
    for name, (what, peer, loops) in THEIRS.items():
        plain = DefendedClassifier(defended.classifier, defended.defense, seed=defended.seed)
        averaging = DefendedClassifier(
            defended.classifier, defended.defense, seed=defended.seed, samples=m, chunk="auto"
        )
        if loops:
            yield row(name, "theirs", f"{what}, its loop of {m}", _with(peer, plain, budget))
        yield row(name, "theirs", f"{what}, {m} in one call", _with(peer, averaging, once))
    attack = PGD(eps=budget.eps, steps=budget.steps, step_size=budget.step_size, gradient=EOT(samples=m))
    for name, ours in OURS.items() if adapters else ():
        what = f"APGD, EOT({m})" if name == "AutoAttack" else f"PGD, EOT({m})"
        yield row(name, "ours", what, _with(ours, defended, attack))


def _with(
    call: Callable[[DefendedClassifier, Tensor, Tensor, How], Tensor], defended: DefendedClassifier, how: How
) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: call(defended, images, labels, how)


def _directly(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    return attack(defended, images, labels).images


def _as_torchattacks(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    found: Tensor = _adapter("torchattacks").TorchattacksAttack(defended, attack)(images, labels)
    return found


def _as_foolbox(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    adapter = _adapter("foolbox")
    called = adapter.FoolboxAttack(attack, votes=1)
    _, clipped, _ = called(adapter.foolbox_model(defended), images, labels, epsilons=attack.eps)
    return torch.as_tensor(clipped)


def _as_art(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    adapter = _adapter("art")
    estimator = adapter.art_classifier(defended, input_shape=tuple(images.shape[1:]))
    found = adapter.ArtAttack(estimator, attack, batch_size=len(images)).generate(
        images.cpu().numpy(), labels.cpu().numpy()
    )
    return torch.from_numpy(found).to(images.device)


def _as_autoattack(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    apgd = APGDAttack(defended, n_iter=attack.steps, eps=attack.eps, eot_iter=attack.gradient.samples, votes=1)
    return apgd.perturb(images, labels, best_loss=True)


def _as_adv_lib(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    return AdvLibAttack(attack)(defended, images, labels)


def _as_secml_torch(defended: DefendedClassifier, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    loader = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    return torch.cat([found for found, _ in _adapter("secml_torch").SecmlAttack(attack)(defended, loader)])


def _adapter(name: str) -> Any:
    """An adapter, imported when it is used: it needs its framework."""
    return import_module(f"cannonade.integrations.{name}")


OURS: dict[str, OurAttack] = {
    "none": _directly,
    "torchattacks": _as_torchattacks,
    "foolbox": _as_foolbox,
    "ART": _as_art,
    "AutoAttack": _as_autoattack,
    "adv_lib": _as_adv_lib,
    "secml-torch": _as_secml_torch,
}
