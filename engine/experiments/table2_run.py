"""Run a row of Table 2: the attack with EOT and the ablation without, judged by the row's own criterion and by our vote."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack, AttackResult
from cannonade.attacks.goals import Goal, MatchLogits, Untargeted, as_goal
from cannonade.attacks.logit_matching import LogitMatching
from cannonade.chunking import Chunk
from cannonade.classifier import Classifier
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.defenses import Defense, build_defense
from cannonade.defenses.odds import Odds, calibrate_odds
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import Outcome, evaluate_batch
from cannonade.evaluation.recipe import attack_calls, with_chunk
from cannonade.evaluation.statistics import rate, wilson_interval
from cannonade.experiments.table2 import ROWS, Criterion, Scale, Setting
from cannonade.files import replace_file
from cannonade.spec import call_text
from cannonade.voting import Votes, majority_vote


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


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the numbers of a row.

    Attributes:
        model, data: names of the classifier and of the images, for the record.
        row: "guo", "xie", "dhillon", "xiao" or "roth".
        scale: "full" or "small".
        classifier: trained for its defense, where the row's is to be faithful.
        source: images whose labels are the places of their logits.
        defense: a call in place of the row's own.
        limit: images that are evaluated, spread evenly; the odds detector is calibrated on others.
        votes: n, of our vote; None for the setting's.
        batch: images of one batch.
        chunk: rows of one pass.
        seed: of every draw.
    """

    model: str
    data: str
    row: str
    scale: Scale
    classifier: Classifier
    source: Source
    defense: str | None = None
    limit: int = 1000
    votes: int | None = None
    batch: int = 50
    chunk: Chunk = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.row not in ROWS:
            raise InputError(f"row must be one of {', '.join(ROWS)}, got {self.row!r}")
        if self.scale not in ("full", "small"):
            raise InputError(f"scale must be 'full' or 'small', got {self.scale!r}")
        if self.batch < 1 or self.limit < 1 or (self.votes or 1) < 1:
            raise InputError(
                f"limit, batch and votes must be at least 1, got {self.limit}, {self.batch} and {self.votes}"
            )

    @property
    def setting(self) -> Setting:
        """Of the row at this scale."""
        return ROWS[self.row].settings[self.scale]

    def load(self, items: list[Item]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images [N, 3, H, W], labels [N] and ids [N], a batch at a time."""
        side, device = self.setting.side, self.classifier.device
        size = (side, side) if side else self.classifier.input_size
        for start in range(0, len(items), self.batch):
            part = items[start : start + self.batch]
            labels, ids = (torch.tensor(values, device=device) for values in zip(*((i.label, i.id) for i in part)))  # noqa: B905
            yield self.source.load(part, size).to(device), labels, ids

    def make_defense(self, evaluated: list[Item]) -> Defense:
        """The row's defense; the odds detector is calibrated on images that are not evaluated."""
        own = ROWS[self.row].defense
        if self.defense is not None or own is not None:
            side = self.setting.side or 0
            return build_defense(self.defense if self.defense is not None else cast(Callable[[int], str], own)(side))
        taken = {item.id for item in evaluated}
        others = [item for item in self.source.items if item.id not in taken]
        if not others:
            raise InputError("the odds detector must be calibrated on images that are not attacked: lower --limit")
        rest = Source(others, self.source.reader, self.source.classes).limited(self.setting.calibration)
        batches = ((images, ids) for images, _, ids in self.load(list(rest.items)))
        return Odds(statistics=calibrate_odds(self.classifier, batches, seed=self.seed))


@dataclass
class Tally:
    """What one attack has come to, on the images that our benign vote has right.

    Attributes:
        attack: as calls.
        attacked: images.
        own: of these, broken by the row's own criterion.
        voted: by our vote.
        null: unperturbed, called wrong by another vote of ours.
        gradients, forwards: of all images.
    """

    attack: str
    attacked: int = 0
    own: int = 0
    voted: int = 0
    null: int = 0
    gradients: int = 0
    forwards: int = 0

    def add(self, outcome: Outcome, broken: Tensor) -> None:
        """Add a batch."""
        self.attacked += len(outcome.attacked)
        self.own += int(broken.sum())
        self.voted += int(outcome.success.sum())
        self.null += int(outcome.null_success.sum())
        self.gradients += int(outcome.attack.gradients.sum())
        self.forwards += int(outcome.attack.forwards.sum())

    def as_json(self) -> dict[str, Any]:
        """Rates with 95 % Wilson intervals."""
        found: dict[str, Any] = {"attack": self.attack, "attacked": self.attacked}
        for name, count in (("own_criterion", self.own), ("vote", self.voted), ("null", self.null)):
            found[name] = rate(count, self.attacked)
            found[f"{name}_ci95"] = wilson_interval(count, self.attacked)
        for name, count in (("gradients", self.gradients), ("forwards", self.forwards)):
            found[f"{name}_per_image"] = rate(count, self.attacked)
        return found


def run_row(
    experiment: Experiment, out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Run both attacks of a row and write `table2-ROW.json`, again after each batch: "images" of it are those done.

    Args:
        experiment: what to run.
        out: folder, made where it is not there.
        progress: called after each batch with the images done, and of how many.

    Returns:
        The content of the file.

    Raises:
        InputError: the parts do not fit together.
    """
    started = time.monotonic()
    row, setting = ROWS[experiment.row], experiment.setting
    items = list(experiment.source.limited(experiment.limit).items)
    defense = experiment.make_defense(items)
    if row.criterion == "wrong and not detected" and not isinstance(defense, Odds):
        raise InputError(f"the row {experiment.row} must have the defense odds(statistics=FILE), got {defense}")
    defended = DefendedClassifier(experiment.classifier, defense, seed=experiment.seed)
    votes = setting.votes if experiment.votes is None else experiment.votes
    attacks = {"with_eot": setting.with_eot, "without_eot": setting.without_eot}
    tallies = {name: Tally(_text(attack)) for name, attack in attacks.items()}
    if isinstance(setting.with_eot, LogitMatching):
        labels, logits = _examples(experiment, items)
        chunked = {name: cast(LogitMatching, with_chunk(attack, experiment.chunk)) for name, attack in attacks.items()}
        attacks = {
            name: TowardsExamples(attack=attack, labels=labels, logits=logits) for name, attack in chunked.items()
        }
    changes = list(setting.changes)
    if votes != (usual := row.settings["full"].votes):
        changes.append(f"our vote is of {votes} predictions instead of {usual}")
    if experiment.defense is not None:
        changes.append(f"the defense is {experiment.defense}, which was asked for")
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {}
    done = plain = right = 0
    for images, labels, ids in experiment.load(items):
        benign: Votes | None = None
        for name, attack in attacks.items():
            outcome = evaluate_batch(
                defended, images, labels, with_chunk(attack, experiment.chunk), votes=votes, ids=ids,
                chunk=experiment.chunk, benign=benign,
            )  # fmt: skip
            benign = outcome.benign
            rows = outcome.attacked
            broken = _broken(row.criterion, defended, outcome.attack.images, labels[rows], ids[rows], experiment.chunk)
            tallies[name].add(outcome, broken)
        plain += int((outcome.undefended == labels).sum())
        right += len(rows)
        done += len(images)
        content = {
            "row": experiment.row, "title": row.title, "scale": experiment.scale, "model": experiment.model,
            "data": experiment.data,
            "defense": call_text(defense.name, defense), "images": done, "of": len(items),
            "plain_accuracy": plain / done, "benign_accuracy": right / done, "criterion": row.criterion, "votes": votes,
            "published": dict(zip(tallies, row.published, strict=True)), "changes": changes,
            **{name: tally.as_json() for name, tally in tallies.items()},
            "seed": experiment.seed, "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        replace_file(out / f"table2-{experiment.row}.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
        progress(done, len(items))
    return content


def _text(attack: Attack) -> str:
    calls = attack_calls(attack)
    return f"{calls['attack']} with {calls['gradient']}"


def _examples(experiment: Experiment, items: list[Item]) -> tuple[Tensor, Tensor]:
    """[2] labels and [2, K] logits of the first images of two classes that the classifier has right."""
    found: dict[int, Tensor] = {}
    for images, labels, _ in experiment.load(items):
        with torch.no_grad():
            logits = experiment.classifier(images)
        for place in (logits.argmax(1) == labels).nonzero()[:, 0].tolist():
            found.setdefault(int(labels[place]), logits[place])
            if len(found) == 2:
                return torch.tensor(list(found), device=labels.device), torch.stack(list(found.values()))
    raise InputError("logit matching needs images of two classes that the classifier has right")


def _broken(
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
