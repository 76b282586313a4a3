"""How good a network is behind its defense, and without it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cannonade.classifier import Classifier
from cannonade.data.views import Feed
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.training.task import Task
from cannonade.voting import majority_vote

_ROWS = 256  # of one pass, at most; fixed, so that no number depends on the memory of the moment


@dataclass(frozen=True)
class Validation:
    """Shares of the validation images.

    Attributes:
        images: their number.
        accuracy: right by majority vote behind the defense.
        plain_accuracy: right without the defense.
        invariance: Pr[F_θ(x) = F(x)] over draws and images (paper, section 4).
    """

    images: int
    accuracy: float
    plain_accuracy: float
    invariance: float


def validate(task: Task, module: nn.Module) -> tuple[Validation, list[dict[str, Any]]]:
    """Look at every validation image once, each process at its share; they meet once, at the end.

    Args:
        task: with the images and the defense.
        module: the network; it is copied.

    Returns:
        The shares, and a record per image in the order of the ids.
    """
    card = task.start.card
    classifier = Classifier(
        module, mean=card.mean, std=card.std, input_size=card.input_size, channels_last=task.recipe.channels_last,
        autocast=task.recipe.autocast,
    )  # fmt: skip
    defended = DefendedClassifier(classifier, task.defense, seed=task.recipe.seed)
    votes = 1 if task.defense.deterministic else task.recipe.votes
    rows = min(_ROWS, task.rows * task.recipe.accumulate)
    feed = Feed(size=card.input_size, batch=rows, rank=task.ranks.rank, world=task.ranks.world)
    own: list[dict[str, Any]] = []
    for batch in task.load(task.validation, feed):
        with torch.no_grad():
            plain = classifier(batch.images).argmax(1)
        cast = majority_vote(defended, batch.images, votes, phase=Phase.BENIGN_VOTE, ids=batch.ids, chunk=rows)
        agreeing = cast.counts.gather(1, plain[:, None])[:, 0]
        columns = (batch.ids, *torch.stack((batch.labels, cast.labels, plain, agreeing)).cpu())
        for row in torch.stack(columns, dim=1).tolist():
            own.append(dict(zip(("id", "label", "vote", "plain", "agreeing"), row, strict=True)))
    records = [record for share in task.ranks.gather(own) for record in share]
    records.sort(key=lambda record: int(record["id"]))
    return _shares(records, votes), records


def _shares(records: list[dict[str, Any]], votes: int) -> Validation:
    count = len(records)
    return Validation(
        count,
        sum(record["vote"] == record["label"] for record in records) / count,
        sum(record["plain"] == record["label"] for record in records) / count,
        sum(record["agreeing"] for record in records) / (count * votes),
    )
