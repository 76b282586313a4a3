"""What an evaluation is: everything that decides its numbers, and the hash of it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cannonade.attacks.attack import Attack
from cannonade.attacks.losses import check_loss
from cannonade.attacks.targets import LEAST_LIKELY_SAMPLES, Target, check_target
from cannonade.chunking import Chunk
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.evaluation.outcome import INVARIANCE_DRAWS
from cannonade.evaluation.recipe import attack_calls, expected_forwards, expected_gradients, with_chunk
from cannonade.spec import call_text
from cannonade.voting import Stop


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the numbers of a run.

    Attributes:
        model: name of the classifier, for the record.
        defended: the classifier behind its defense; its seed is the run's.
        data: name of the data set, for the record.
        source: its images.
        attack: the attack.
        votes: n, predictions of a majority vote.
        stop: when a vote ends before all n are cast; None for never (see `majority_vote`).
        alpha: of the sequential rule: the chance, for each vote, of another label than that of all n.
        target: of a targeted attack: a class, "least_likely" or "random" (see `choose_targets`); None for untargeted. Images
            whose target is their label are not attacked.
        batch: images of one batch.
        chunk: rows of one pass through the classifier.
        device: where it runs.
    """

    model: str
    defended: DefendedClassifier
    data: str
    source: Source
    attack: Attack
    votes: int = 500
    stop: Stop | None = None
    alpha: float = 1e-3
    target: Target | None = None
    batch: int = 32
    chunk: Chunk = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        classes = self.defended.num_classes
        for name, value in (("votes", self.votes), ("batch", self.batch)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.stop not in (None, "exact", "sequential"):
            raise InputError(f"stop must be none, exact or sequential, got {self.stop!r}")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha must be in (0, 1), got {self.alpha}")
        if self.target is not None:
            check_target(self.target, classes)
        if loss := getattr(self.attack, "loss", None):
            check_loss(loss, classes, targeted=self.target is not None)
        if not len(self.source):
            raise InputError("there must be at least one image to evaluate, got none")
        self.source.check_labels(classes)

    @property
    def batches(self) -> list[list[Item]]:
        """Which images share a batch, a function of the plan alone: convolutions round differently in another batch."""
        items = self.source.items
        return [items[start : start + self.batch] for start in range(0, len(items), self.batch)]

    @property
    def calls(self) -> dict[str, str]:
        """Defense, attack and gradient as the calls that make them: their numbers, and what else is not at its default."""
        return {
            "defense": call_text(self.defended.defense.name, self.defended.defense),
            **attack_calls(self.attack),
        }

    def expected_gradients(self, attacked: float = 1.0) -> int:
        """About how many gradients the run will take.

        Args:
            attacked: share of the images that will be attacked.
        """
        return round(len(self.source) * attacked * expected_gradients(self.attack))

    def expected_forwards(self, attacked: float = 1.0) -> int:
        """About how many images will pass the classifier, if no vote stops early, those of the gradients included.

        Args:
            attacked: share of the images that will be attacked.
        """
        attack = 2 * self.votes + expected_forwards(self.attack, self.defended)
        return round(len(self.source) * (forwards_beside(self) + self.votes + attacked * attack))

    @property
    def settings(self) -> dict[str, Any]:
        """What of the configuration one evaluation of the same images by the same model may differ from another in."""
        return {
            "defense": str(self.defended.defense),
            "attack": str(with_chunk(self.attack, "auto")),
            "calls": self.calls,
            "votes": self.votes,
            "stop": f"sequential, alpha={self.alpha}" if self.stop == "sequential" else self.stop,
            "target": self.target,
            "seed": self.defended.seed,
        }

    def configuration(self) -> dict[str, Any]:
        """The settings that decide the numbers, the content of weights and images included, as JSON has them."""
        classifier = self.defended.classifier
        configuration = {
            "model": self.model,
            "weights_sha256": weights_checksum(classifier),
            "data": self.data,
            "images": len(self.source),
            "data_sha256": self.source.checksum,
            **self.settings,
            "batch": self.batch,
            "chunk": self.chunk,
            "device": self.device.type,
        }
        normal: dict[str, Any] = json.loads(json.dumps(configuration))
        return normal


def forwards_beside(plan: Plan) -> int:
    """Forward passes of each image that are neither votes nor the attack's: without the defense, for its target, and for the
    invariance where no whole vote tells it."""
    choosing = LEAST_LIKELY_SAMPLES if plan.target == "least_likely" else 0
    return 1 + choosing + (0 if plan.stop is None else INVARIANCE_DRAWS)


def config_hash(configuration: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration: runs that share it have the same numbers."""
    return _digest([json.dumps(configuration, sort_keys=True).encode()])


def weights_checksum(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names."""
    return _digest(_tensor_bytes(network.state_dict()))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    for name, tensor in sorted(tensors.items()):
        yield name.encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
