"""One batch of a row of Table 2: its attacks, and who was broken by the row's own criterion and by our vote."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack, AttackResult
from cannonade.attacks.goals import Goal, MatchLogits, Untargeted, as_goal
from cannonade.attacks.logit_matching import LogitMatching
from cannonade.chunking import Chunk
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses.odds import Odds
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import Outcome, evaluate_batch
from cannonade.evaluation.recipe import with_chunk
from cannonade.evaluation.statistics import rate, wilson_interval
from cannonade.experiments.table2 import Criterion, Setting
from cannonade.voting import Votes, majority_vote

ATTACKS = ("with_eot", "without_eot")
Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TowardsExamples:
    """Logit matching towards the logits of a clean image of another class, the first in the data that is predicted right.

    Attributes:
        attack: how.
        labels: [2] int64, two different labels.
        logits: [2, K], of an image of each; images of the first one's class are moved towards the second.
    """

    attack: LogitMatching
    labels: Tensor
    logits: Tensor

    @property
    def eps(self) -> float:
        """Radius of the ball in units of [0, 1]."""
        return self.attack.eps

    @property
    def norm(self) -> str:
        """Norm of the ball."""
        return self.attack.norm

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch; see `LogitMatching`."""
        goal = as_goal(goal)
        if not isinstance(goal, Untargeted):
            raise InputError(f"the odds detector is attacked with the untargeted goal, got {type(goal).__name__}")
        wanted = self.logits[(goal.labels == self.labels[0]).long()]
        return self.attack(defended, images, MatchLogits(goal.labels, wanted), ids=ids)


def find_examples(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Examples:
    """[2] labels and [2, K] logits of the first images of two classes that the classifier has right.

    Args:
        classifier: the classifier.
        batches: images, labels and ids.

    Raises:
        InputError: there are none.
    """
    found: dict[int, Tensor] = {}
    for images, labels, _ in batches:
        with torch.no_grad():
            logits = classifier(images)
        for place in (logits.argmax(1) == labels).nonzero()[:, 0].tolist():
            found.setdefault(int(labels[place]), logits[place])
            if len(found) == 2:
                return torch.tensor(list(found), device=labels.device), torch.stack(list(found.values()))
    raise InputError("logit matching needs images of two classes that the classifier has right")


def attacks_of(setting: Setting, examples: Examples | None, chunk: Chunk) -> dict[str, Attack]:
    """Both attacks of a setting with a chunk, by name; logit matching towards the examples."""
    attacks = {name: with_chunk(getattr(setting, name), chunk) for name in ATTACKS}
    if examples is None:
        return attacks
    labels, logits = examples
    return {
        name: TowardsExamples(attack=cast(LogitMatching, attack), labels=labels, logits=logits)
        for name, attack in attacks.items()
    }


def records_of_batch(
    defended: DefendedClassifier,
    attacks: Mapping[str, Attack],
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    criterion: Criterion,
    votes: int,
    chunk: Chunk,
) -> list[dict[str, Any]]:
    """What became of each image of a batch, as JSON has it; under an attack's name None where it was not attacked.

    Args:
        defended: the classifier behind the row's defense.
        attacks: by name.
        images, labels, ids: [N, 3, H, W], [N] and [N].
        criterion: the row's own.
        votes: n, of our vote.
        chunk: rows of one pass of a vote.
    """
    benign: Votes | None = None
    fates: dict[str, dict[int, dict[str, Any]]] = {}
    for name, attack in attacks.items():
        outcome = evaluate_batch(
            defended, images, labels, attack, votes=votes, ids=ids, chunk=chunk, benign=benign
        )  # fmt: skip
        benign = outcome.benign
        rows = outcome.attacked
        own = broken(criterion, defended, outcome.attack.images, labels[rows], ids[rows], chunk)
        fates[name] = dict(zip(rows.tolist(), _fates(outcome, own), strict=True))
    return [
        {
            "id": int(ids[row]),
            "label": int(labels[row]),
            "undefended": int(outcome.undefended[row]),
            **{name: fate.get(row) for name, fate in fates.items()},
        }
        for row in range(len(images))
    ]


def _fates(outcome: Outcome, own: Tensor) -> list[dict[str, Any]]:
    columns = {
        "own_criterion": own, "vote": outcome.success, "null": outcome.null_success,
        "gradients": outcome.attack.gradients, "forwards": outcome.attack.forwards,
    }  # fmt: skip
    return [
        dict(zip(columns, values, strict=True))
        for values in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]


def rates_of(fates: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Of the images that an attack took: its success rates with 95 % Wilson intervals, and its costs."""
    attacked = [fate for fate in fates if fate is not None]
    found: dict[str, Any] = {"attacked": len(attacked)}
    for name in ("own_criterion", "vote", "null"):
        count = sum(fate[name] for fate in attacked)
        found[name] = rate(count, len(attacked))
        found[f"{name}_ci95"] = wilson_interval(count, len(attacked))
    for name in ("gradients", "forwards"):
        found[f"{name}_per_image"] = rate(sum(fate[name] for fate in attacked), len(attacked))
    return found


def broken(
    criterion: Criterion, defended: DefendedClassifier, images: Tensor, labels: Tensor, ids: Tensor, chunk: Chunk
) -> Tensor:
    """[M] bool, which adversarial images the row's own criterion counts; its draws are the final vote's first."""
    if criterion == "none of 30 fresh predictions is right":
        return ~majority_vote(defended, images, 30, reading="any", ids=ids, chunk=chunk).holds(labels)
    if criterion == "one prediction is wrong":
        return majority_vote(defended, images, 1, ids=ids, chunk=chunk).labels != labels
    classifier, odds = defended.classifier, cast(Odds, defended.defense)
    draws = Draws(
        seed=defended.seed, phase=Phase.FINAL_VOTE, images=ids.cpu(), queries=torch.zeros_like(ids, device="cpu")
    )
    if not len(images):
        return torch.zeros_like(labels, dtype=torch.bool)
    with torch.no_grad():
        wrong: Tensor = classifier(images).argmax(1) != labels
    return wrong & ~odds.detects(classifier, images, draws)
