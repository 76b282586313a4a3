"""Run a row of Table 2: the attack with EOT and the ablation without, judged by the row's own criterion and by our vote."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack
from cannonade.attacks.logit_matching import LogitMatching
from cannonade.chunking import Chunk, resolve_chunk, settled
from cannonade.classifier import Classifier
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.defenses import Defense, build_defense
from cannonade.defenses.odds import Odds, OddsStatistics, calibrate_odds
from cannonade.errors import InputError
from cannonade.evaluation.plan import config_hash, weights_checksum
from cannonade.evaluation.recipe import attack_calls, with_chunk
from cannonade.evaluation.run import FORMAT, check_same
from cannonade.evaluation.run_directory import Finished, RunDirectory, checksum_of
from cannonade.evaluation.statistics import rate
from cannonade.experiments.table2 import ROWS, Scale, Setting
from cannonade.experiments.table2_batch import (
    ATTACKS,
    Examples,
    attacks_of,
    find_examples,
    rates_of,
    records_of_batch,
)
from cannonade.files import replace_file
from cannonade.spec import call_text

_CALIBRATION = "odds.safetensors"


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
        batch: images of one batch; which share one decides, by rounding, their last bits.
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

    @property
    def calibrates(self) -> bool:
        """Whether the odds detector is made here, on images that are not evaluated."""
        return self.defense is None and ROWS[self.row].defense is None

    @property
    def own_votes(self) -> int:
        """n, of our vote."""
        return self.setting.votes if self.votes is None else self.votes

    @property
    def changes(self) -> tuple[str, ...]:
        """What differs from the original, one sentence each."""
        changes = list(self.setting.changes)
        if self.own_votes != (usual := ROWS[self.row].settings["full"].votes):
            changes.append(f"our vote is of {self.own_votes} predictions instead of {usual}")
        if self.defense is not None:
            changes.append(f"the defense is {self.defense}, which was asked for")
        return tuple(changes)

    def configuration(self, evaluated: Source, defense: Defense) -> dict[str, Any]:
        """All that decides the numbers, the content of weights and images included, as JSON has it."""
        found = {
            "row": self.row, "scale": self.scale, "model": self.model, "weights_sha256": weights_checksum(self.classifier),
            "data": self.data, "images": len(evaluated), "data_sha256": evaluated.checksum, "defense": str(defense),
            **{name: str(with_chunk(getattr(self.setting, name), "auto")) for name in ATTACKS},
            "side": self.setting.side, "votes": self.own_votes, "batch": self.batch, "chunk": self.chunk,
            "device": self.classifier.device.type, "seed": self.seed,
        }  # fmt: skip
        normal: dict[str, Any] = json.loads(json.dumps(found))
        return normal

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


def run_row(
    experiment: Experiment,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    resume: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run both attacks of a row into the run directory `ROW`, and write `table2-ROW.json`, again after each batch.

    A batch is the unit of work: a row that was killed and is resumed has the bits of one that was not.

    Args:
        experiment: what to run.
        out: folder, made where it is not there.
        progress: called after each batch with the images done, and of how many.
        resume: go on with what is in the run directory, which must otherwise be new.
        notice: told what of a resumed row was damaged.

    Returns:
        The content of the file; "images" of it are those done.

    Raises:
        InputError: the parts do not fit together, or the run directory is another row's, or there is one and `resume` is false.
    """
    evaluated = experiment.source.limited(experiment.limit)
    items = list(evaluated.items)
    batches = [items[start : start + experiment.batch] for start in range(0, len(items), experiment.batch)]
    ids = [[item.id for item in batch] for batch in batches]
    directory = RunDirectory(out / experiment.row)
    if directory.path.is_dir() and not (resume and directory.begun):
        directory.check_empty()
    defense = _defense(experiment, items, directory)
    defended = DefendedClassifier(experiment.classifier, defense, seed=experiment.seed)
    examples = None
    if isinstance(experiment.setting.with_eot, LogitMatching):
        examples = find_examples(experiment.classifier, experiment.load(items))
    configuration = experiment.configuration(evaluated, defense)

    def prepare(alone: bool) -> tuple[int, list[dict[str, Any]], list[Finished]]:
        if directory.begun:
            header = directory.read_json("run.json")
            check_same(header, configuration, directory.path)
        else:
            directory.check_empty()
            header = _begin(experiment, defended, configuration, batches[0], directory)
        sound, records, damaged = directory.recover(ids)
        for text in damaged:
            notice(f"damaged, and done again: {text}")
        return int(header["resolved_chunk"]), records, list(sound.values())

    def content_of(records: list[dict[str, Any]], finished: Sequence[Finished]) -> dict[str, Any]:
        return _content(experiment, defense, configuration, records, finished)

    def write(content: dict[str, Any]) -> None:
        replace_file(out / f"table2-{experiment.row}.json", json.dumps(content, indent=1, ensure_ascii=False).encode())

    with directory.writing(False, prepare) as (chunk, records, finished):
        while True:
            for number in directory.unfinished(range(len(batches)), shared=False):
                rows = min(chunk, directory.chunks.get(number, chunk))
                done, own = _do(experiment, defended, examples, number, batches[number], rows)
                directory.finish_batch(done, own)
                records, finished = records + own, [*finished, done]
                write(content_of(records, finished))
                progress(len(records), len(items))
            if directory.finish(ids, content_of):
                content = directory.read_json("summary.json")
                write(content)
                return content


def _defense(experiment: Experiment, items: list[Item], directory: RunDirectory) -> Defense:
    """The row's; of a resumed row the calibration that it was begun with."""
    calibration = directory.path / _CALIBRATION
    if experiment.calibrates and calibration.is_file():
        return Odds(statistics=OddsStatistics.load(calibration))
    defense = experiment.make_defense(items)
    if ROWS[experiment.row].criterion == "wrong and not detected" and not isinstance(defense, Odds):
        raise InputError(f"the row {experiment.row} must have the defense odds(statistics=FILE), got {defense}")
    return defense


def _begin(
    experiment: Experiment,
    defended: DefendedClassifier,
    configuration: dict[str, Any],
    batch: list[Item],
    directory: RunDirectory,
) -> dict[str, Any]:
    """Measure what a row decides once, and write it down; returns the content of `run.json`."""
    first, _, _ = next(experiment.load(batch[:1]))
    draws = max(experiment.own_votes, *(getattr(experiment.setting, name).gradient.queries for name in ATTACKS))
    header = {
        "format": FORMAT,
        "configuration": configuration,
        "config_hash": config_hash(configuration),
        "resolved_chunk": resolve_chunk(experiment.chunk, defended, first, len(batch) * draws),
    }
    directory.write_json("run.json", header)
    if experiment.calibrates:
        cast(OddsStatistics, cast(Odds, defended.defense).statistics).save(directory.path / _CALIBRATION)
    return header


def _do(
    experiment: Experiment,
    defended: DefendedClassifier,
    examples: Examples | None,
    number: int,
    batch: list[Item],
    chunk: int,
) -> tuple[Finished, list[dict[str, Any]]]:
    """Both attacks on a batch; what is to be written of it."""
    started = time.monotonic()
    images, labels, ids = next(experiment.load(batch))

    def work(rows: int) -> list[dict[str, Any]]:
        return records_of_batch(
            defended, attacks_of(experiment.setting, examples, rows), images, labels, ids,
            criterion=ROWS[experiment.row].criterion, votes=experiment.own_votes, chunk=rows,
        )  # fmt: skip

    records, chunk = settled(work, chunk)
    seconds = round(time.monotonic() - started, 3)
    return Finished(number, [item.id for item in batch], {}, checksum_of(records), chunk, seconds, {}), records


def _content(
    experiment: Experiment,
    defense: Defense,
    configuration: dict[str, Any],
    records: list[dict[str, Any]],
    finished: Sequence[Finished],
) -> dict[str, Any]:
    """Of `table2-ROW.json`."""
    row = ROWS[experiment.row]
    return {
        "row": experiment.row, "title": row.title, "scale": experiment.scale, "model": experiment.model,
        "data": experiment.data, "defense": call_text(defense.name, defense),
        "images": len(records), "of": configuration["images"],
        "plain_accuracy": rate(sum(record["undefended"] == record["label"] for record in records), len(records)),
        "benign_accuracy": rate(sum(record[ATTACKS[0]] is not None for record in records), len(records)),
        "criterion": row.criterion, "votes": experiment.own_votes,
        "published": dict(zip(ATTACKS, row.published, strict=True)), "changes": list(experiment.changes),
        **{
            name: {"attack": _text(getattr(experiment.setting, name)), **rates_of(record[name] for record in records)}
            for name in ATTACKS
        },
        "seed": experiment.seed, "config_hash": config_hash(configuration),
        "seconds": round(sum(batch.seconds for batch in finished), 1),
    }  # fmt: skip


def _text(attack: Attack) -> str:
    calls = attack_calls(attack)
    return f"{calls['attack']} with {calls['gradient']}"
