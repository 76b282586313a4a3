"""A run: a whole data set, batch by batch, into a run directory."""

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cannonade.attacks.attack import Attack
from cannonade.attacks.losses import check_loss
from cannonade.attacks.targets import LEAST_LIKELY_SAMPLES, Target, check_target, choose_targets
from cannonade.chunking import Chunk, resolve_chunk
from cannonade.data.sources import Item, Source
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import Outcome, evaluate_batch
from cannonade.evaluation.page import eight_bit
from cannonade.evaluation.recipe import attack_calls, expected_forwards, samples_of, with_chunk
from cannonade.evaluation.run_directory import Finished, RunDirectory, checksum_of
from cannonade.evaluation.shared_votes import SharedVotes
from cannonade.evaluation.statistics import rate, wilson_interval
from cannonade.spec import call_text

PICTURES = 20  # images shown in a report
FORMAT = 2  # of a run directory
Mode = Literal["new", "resume", "join"]
_PACKAGES = ("cannonade", "torch", "torchvision", "triton", "kornia", "numpy", "safetensors")


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
    target: Target | None = None
    batch: int = 32
    chunk: Chunk = "auto"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        classes = self.defended.num_classes
        for name, value in (("votes", self.votes), ("batch", self.batch)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.target is not None:
            check_target(self.target, classes)
        if loss := getattr(self.attack, "loss", None):
            check_loss(loss, classes, targeted=self.target is not None)
        if not len(self.source):
            raise InputError("there must be at least one image to evaluate, got none")
        self.source.check_labels(classes)

    @property
    def calls(self) -> dict[str, str]:
        """Defense, attack and gradient as the calls that make them, without what is left at its default."""
        return {
            "defense": call_text(self.defended.defense.name, self.defended.defense),
            **attack_calls(self.attack),
        }

    def expected_forwards(self, attacked: float = 1.0) -> int:
        """About how many images will pass the classifier, for a progress bar.

        Args:
            attacked: share of the images that will be attacked.
        """
        attack = expected_forwards(self.attack, self.defended)
        return round(len(self.source) * (self.votes + attacked * (2 * self.votes + attack)))

    @property
    def settings(self) -> dict[str, Any]:
        """What of the configuration one evaluation of the same images by the same model may differ from another in."""
        return {
            "defense": str(self.defended.defense),
            "attack": str(with_chunk(self.attack, "auto")),
            "calls": self.calls,
            "votes": self.votes,
            "target": self.target,
            "seed": self.defended.seed,
        }

    def configuration(self) -> dict[str, Any]:
        """The settings that decide the numbers, the content of weights and images included."""
        classifier = self.defended.classifier
        return {
            "model": self.model,
            "weights_sha256": _digest(_tensor_bytes(classifier.state_dict())),
            "data": self.data,
            "images": len(self.source),
            "data_sha256": _digest(self.source.content()),
            **self.settings,
            "batch": self.batch,
            "chunk": self.chunk,
            "device": self.device.type,
        }


def run(
    plan: Plan,
    out: Path,
    progress: Callable[[int, dict[str, Any]], None] = lambda done, summary: None,
    *,
    mode: Mode = "new",
    stop: Callable[[dict[str, Any]], bool] = lambda summary: False,
    notice: Callable[[str], None] = lambda text: None,
    shared: SharedVotes | None = None,
) -> dict[str, Any]:
    """Evaluate a plan and write its run directory.

    A batch is the unit of work: which images share one is a function of the plan alone, so that a run that was interrupted
    and goes on, or that several processes share, has the same bits, on the same kind of device, as one that was not.

    Args:
        plan: what to evaluate.
        out: the run directory.
        progress: called after each batch of this process with the number of images and the summary of what it knows to be
            finished.
        mode: "new" needs a new or empty directory; "resume" goes on with a run of the same plan, where what is finished and
            sound stays and everything else is done again; "join" does the same beside other processes that also join.
        stop: asked before each batch, with the summary so far; true ends the run there, to be resumed.
        notice: told what of a resumed run was damaged.
        shared: what this run shares with others of the same defended classifier and images, computed once for all.

    Returns:
        The content of `summary.json`, which is written once all is finished; until then "images" of it are fewer.

    Raises:
        InputError: the directory cannot be used or is another plan's, another process writes it, or an image cannot be read.
    """
    items = plan.source.items
    batches = [items[start : start + plan.batch] for start in range(0, len(items), plan.batch)]
    ids = [[item.id for item in batch] for batch in batches]
    configuration = json.loads(json.dumps(plan.configuration()))
    directory, joined = RunDirectory(out), mode == "join"

    def summary_of(records: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        named = {"seed": plan.defended.seed, "config_hash": _hash(configuration)}
        return summarise(records, plan.votes) | {"seconds": round(seconds, 3)} | named

    def prepare(alone: bool) -> tuple[int, list[dict[str, Any]], float]:
        if mode == "new" or not directory.begun:
            directory.check_empty()
            chunk = _begin(plan, directory, configuration, shared)
        else:
            chunk = _check_same(directory, configuration)
        if not alone:
            return chunk, [], 0.0
        sound, records, damaged = directory.recover(ids)
        for text in damaged:
            notice(f"damaged, and done again: {text}")
        return chunk, records, sum(batch.seconds for batch in sound.values())

    with directory.writing(joined, prepare) as (chunk, records, seconds):
        while True:
            for number in directory.unfinished(len(batches), joined):
                summary = summary_of(records, seconds)
                if stop(summary):
                    return summary
                done, own = _do(plan, directory, number, batches[number], chunk, shared)
                directory.finish_batch(done, own)
                records, seconds = records + own, seconds + done.seconds
                progress(len(records), summary_of(records, seconds))
            if directory.finish(ids, summary_of):
                return directory.read_json("summary.json")


def _do(
    plan: Plan, directory: RunDirectory, number: int, batch: list[Item], chunk: int, shared: SharedVotes | None
) -> tuple[Finished, list[dict[str, Any]]]:
    """Evaluate a batch and write its images; returns what is to be written of it at last."""
    started = time.monotonic()
    images = plan.source.load(batch, plan.defended.classifier.input_size).to(plan.device)
    records, outcome = _evaluate(plan, batch, images, chunk, shared)
    tensors = {"ids": _ids(batch)[outcome.attacked.cpu()], "images": outcome.attack.images}
    checksums = directory.write_tensors("adversarial", number, tensors)
    if number * plan.batch < PICTURES:
        checksums |= directory.write_tensors("pictures", number, _pictures(plan, batch, images))
    seconds = round(time.monotonic() - started, 3)
    return Finished(number, [item.id for item in batch], checksums, checksum_of(records), seconds), records


def _begin(plan: Plan, directory: RunDirectory, configuration: dict[str, Any], shared: SharedVotes | None) -> int:
    """Measure what a run decides once, and write it down; returns the rows of one pass."""
    items = plan.source.items
    first = plan.source.load(items[:1], plan.defended.classifier.input_size).to(plan.device)
    rows = min(plan.batch, len(items)) * max(plan.votes, samples_of(plan.attack))
    measure = resolve_chunk if shared is None else shared.chunk
    chunk = measure(plan.chunk, plan.defended, first, rows)
    header = {"format": FORMAT, "configuration": configuration, "config_hash": _hash(configuration)}
    directory.write_json("run.json", header | {"resolved_chunk": chunk, **_circumstances(plan)})
    return chunk


def _check_same(directory: RunDirectory, configuration: dict[str, Any]) -> int:
    """The rows of one pass of the run in a directory, if it is a run of this configuration."""
    header = directory.read_json("run.json")
    if header.get("format") != FORMAT:
        raise InputError(
            f"a run can be resumed by the version that began it, {directory.path} has format {header.get('format')}, "
            f"this is {FORMAT}: start a new run"
        )
    there = header["configuration"]
    for key in (*configuration, *there):
        if there.get(key) != configuration.get(key):
            raise InputError(
                f"a run must be resumed with its own configuration, {directory.path} differs first in {key}: "
                f"there {there.get(key)!r}, here {configuration.get(key)!r}"
            )
    return int(header["resolved_chunk"])


def _hash(configuration: dict[str, Any]) -> str:
    return _digest([json.dumps(configuration, sort_keys=True).encode()])


def summarise(records: Sequence[dict[str, Any]], votes: int) -> dict[str, Any]:
    """The rates of a run from its images' records (paper, section 6.1), with 95 % Wilson intervals."""
    attacked = [record for record in records if record["attacked"]]
    right = sum(record["benign_label"] == record["label"] for record in records)
    fooled = sum(record["success"] for record in attacked)
    wavering = sum(record["null_success"] for record in attacked)
    return {
        "images": len(records),
        "attacked": len(attacked),
        "benign_accuracy": rate(right, len(records)),
        "benign_accuracy_ci95": wilson_interval(right, len(records)),
        "success_rate": rate(fooled, len(attacked)),
        "success_rate_ci95": wilson_interval(fooled, len(attacked)),
        "null_success_rate": rate(wavering, len(attacked)),
        "null_success_rate_ci95": wilson_interval(wavering, len(attacked)),
        "votes": votes,
        "gradients": sum(record["gradients"] for record in attacked),
        "gradients_per_image": rate(sum(record["gradients"] for record in attacked), len(attacked)),
        "forwards": sum(record["forwards"] for record in records),
        "targets_equal_to_label": sum(record["target"] == record["label"] for record in records),
        "nonfinite_gradient_images": sum(record["nonfinite_gradients"] > 0 for record in attacked),
        "zero_gradient_images": sum(record["zero_gradients"] > 0 for record in attacked),
    }


def _evaluate(
    plan: Plan, batch: list[Item], images: Tensor, chunk: int, shared: SharedVotes | None
) -> tuple[list[dict[str, Any]], Outcome]:
    started = time.monotonic()
    labels = torch.tensor([item.label for item in batch], device=plan.device)
    ids = _ids(batch).to(plan.device)
    targets = None
    if plan.target is not None:
        targets = choose_targets(plan.target, plan.defended, images, labels, ids, chunk)
    outcome = evaluate_batch(
        plan.defended,
        images,
        labels,
        with_chunk(plan.attack, chunk),
        votes=plan.votes,
        targets=targets,
        ids=ids,
        chunk=chunk,
        benign=None if shared is None else shared.benign_vote(plan.defended, images, plan.votes, ids, chunk),
    )
    seconds = round((time.monotonic() - started) / len(batch), 4)
    return [record | {"seconds": seconds} for record in _records(plan, batch, outcome, targets)], outcome


def _records(plan: Plan, batch: list[Item], outcome: Outcome, targets: Tensor | None) -> Iterator[dict[str, Any]]:
    """One record per image, in the order of the batch."""
    choosing = LEAST_LIKELY_SAMPLES if plan.target == "least_likely" else 0
    place = {int(row): index for index, row in enumerate(outcome.attacked)}
    for row, item in enumerate(batch):
        record: dict[str, Any] = {
            "id": item.id,
            "name": item.name,
            "label": item.label,
            "target": None if targets is None else int(targets[row]),
            "benign_label": int(outcome.benign.labels[row]),
            "benign_counts": _sparse(outcome.benign.counts[row]),
            "attacked": row in place,
            "forwards": choosing + int(outcome.benign.forwards[row]),
        }
        if row in place:
            index, attack = place[row], outcome.attack
            later = outcome.final.forwards[index] + outcome.null.forwards[index] + attack.forwards[index]
            record |= {
                "adversarial_label": int(outcome.final.labels[index]),
                "adversarial_counts": _sparse(outcome.final.counts[index]),
                "null_label": int(outcome.null.labels[index]),
                "success": bool(outcome.success[index]),
                "null_success": bool(outcome.null_success[index]),
                "distance": float(outcome.distance[index]),
                "gradients": int(attack.gradients[index]),
                "forwards": record["forwards"] + int(later),
                "nonfinite_gradients": int(attack.nonfinite[index]),
                "zero_gradients": int(attack.zero[index]),
            }
        yield record


def _sparse(counts: Tensor) -> dict[str, int]:
    """The classes that got votes, the most voted first."""
    found = {int(label): int(counts[label]) for label in counts.nonzero()[:, 0]}
    return {str(label): count for label, count in sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))}


@torch.no_grad()
def _pictures(plan: Plan, batch: list[Item], images: Tensor) -> dict[str, Tensor]:
    """Clean images and their first defended draw of the benign vote, as 8-bit pictures."""
    ids = _ids(batch)[:PICTURES].to(plan.device)
    draws = Draws(seed=plan.defended.seed, phase=Phase.BENIGN_VOTE, images=ids, queries=torch.zeros_like(ids))
    clean = images[: len(ids)]
    defended = plan.defended.defense(clean, draws)
    return {"ids": ids, "clean": eight_bit(clean), "defended": eight_bit(defended)}


def _ids(batch: Sequence[Item]) -> Tensor:
    return torch.tensor([item.id for item in batch])


def _digest(parts: Iterator[bytes] | list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _tensor_bytes(tensors: dict[str, Tensor]) -> Iterator[bytes]:
    for name, tensor in sorted(tensors.items()):
        yield name.encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _circumstances(plan: Plan) -> dict[str, Any]:
    """What does not decide the numbers but explains them."""
    return {
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "hardware": {
            "device": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "command": sys.argv,
        "class_names": list(plan.defended.classifier.class_names or []),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
