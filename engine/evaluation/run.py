"""A run: a whole data set, batch by batch, into a run directory."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cannonade.attacks.targets import choose_targets
from cannonade.chunking import resolve_chunk, settled
from cannonade.data.sources import Item
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.outcome import Outcome, evaluate_batch
from cannonade.evaluation.page import eight_bit
from cannonade.evaluation.plan import Plan, config_hash
from cannonade.evaluation.recipe import samples_of, with_chunk
from cannonade.evaluation.records import SPLIT, records_of, summarise
from cannonade.evaluation.run_directory import Finished, RunDirectory, checksum_of
from cannonade.evaluation.shared_votes import SharedVotes
from cannonade.stopwatch import Stopwatch

PICTURES = 20  # images shown in a report
FORMAT = 3  # of a run directory
Mode = Literal["new", "resume", "join"]
_PACKAGES = ("cannonade", "torch", "torchvision", "triton", "kornia", "numpy", "safetensors")


def run(
    plan: Plan,
    out: Path,
    progress: Callable[[int, dict[str, Any]], None] = lambda done, summary: None,
    *,
    mode: Mode = "new",
    shard: tuple[int, int] = (0, 1),
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
        shard: (i, n): only the batches whose number is i modulo n, for machines that share no directory; `merge` puts the
            directories together.
        stop: asked before each batch, with the summary so far; true ends the run there, to be resumed.
        notice: told what of a resumed run was damaged.
        shared: what this run shares with others of the same defended classifier and images, computed once for all.

    Returns:
        The content of `summary.json`, which is written once all is finished; until then, and of a shard, "images" of it are
        fewer.

    Raises:
        InputError: the directory cannot be used or is another plan's, another process writes it, or an image cannot be read.
    """
    batches = plan.batches
    configuration = plan.configuration()
    directory, joined = RunDirectory(out), mode == "join"

    def summary_of(records: list[dict[str, Any]], batches: Sequence[Finished]) -> dict[str, Any]:
        return summary_of_run(records, batches, configuration)

    def prepare(alone: bool) -> tuple[int, list[dict[str, Any]], list[Finished]]:
        if mode == "new" or not directory.begun:
            directory.check_empty()
            chunk = _begin(plan, directory, configuration, shared)
        else:
            header = directory.read_json("run.json")
            check_same(header, configuration, directory.path)
            chunk = int(header["resolved_chunk"])
        if not alone:
            return chunk, [], []
        sound, records, damaged = directory.recover([[item.id for item in batch] for batch in batches])
        for text in damaged:
            notice(f"damaged, and done again: {text}")
        return chunk, records, list(sound.values())

    with directory.writing(joined, prepare) as (chunk, records, finished):
        own_share = range(shard[0], len(batches), shard[1])
        while True:
            for number in directory.unfinished(own_share, joined):
                summary = summary_of(records, finished)
                if stop(summary):
                    return summary
                # A batch that once met less memory is done again with the rows that it had then.
                rows = min(chunk, directory.chunks.get(number, chunk))
                done, own = _do(plan, directory, number, batches[number], rows, shared)
                directory.finish_batch(done, own)
                records, finished = records + own, [*finished, done]
                progress(len(records), summary_of(records, finished))
            if shard[1] > 1:
                return summary_of(records, finished)
            if directory.finish([[item.id for item in batch] for batch in batches], summary_of):
                return directory.read_json("summary.json")


def summary_of_run(
    records: list[dict[str, Any]], batches: Sequence[Finished], configuration: dict[str, Any]
) -> dict[str, Any]:
    """The summary of what is finished of a run: its rates, what it cost, and whose it is."""
    seconds = {part: round(sum(batch.split.get(part, 0.0) for batch in batches), 3) for part in SPLIT}
    return summarise(records, configuration["votes"]) | {
        "seconds": round(sum(batch.seconds for batch in batches), 3),
        "seconds_by_part": seconds,
        "seed": configuration["seed"],
        "config_hash": config_hash(configuration),
    }


def check_same(header: dict[str, Any], configuration: dict[str, Any], path: Path) -> None:
    """Raise InputError unless the content of a `run.json` is of a run of this configuration, by this version."""
    if header.get("format") != FORMAT:
        raise InputError(
            f"a run can be resumed by the version that began it, {path} has format {header.get('format')}, "
            f"this is {FORMAT}: start a new run"
        )
    there = header["configuration"]
    for key in (*configuration, *there):
        if there.get(key) != configuration.get(key):
            raise InputError(
                f"a run must be resumed with its own configuration, {path} differs first in {key}: "
                f"there {there.get(key)!r}, here {configuration.get(key)!r}"
            )


def _begin(plan: Plan, directory: RunDirectory, configuration: dict[str, Any], shared: SharedVotes | None) -> int:
    """Measure what a run decides once, and write it down; returns the rows of one pass."""
    items = plan.source.items
    first = plan.source.load(items[:1], plan.defended.classifier.input_size).to(plan.device)
    rows = min(plan.batch, len(items)) * max(plan.votes, samples_of(plan.attack))
    measure = resolve_chunk if shared is None else shared.chunk
    chunk = measure(plan.chunk, plan.defended, first, rows)
    header = {"format": FORMAT, "configuration": configuration, "config_hash": config_hash(configuration)}
    measured = None if shared is None else shared.measured
    directory.write_json(
        "run.json", header | {"resolved_chunk": chunk, "measured_chunk": measured, **_circumstances(plan)}
    )
    return chunk


def _do(
    plan: Plan, directory: RunDirectory, number: int, batch: list[Item], chunk: int, shared: SharedVotes | None
) -> tuple[Finished, list[dict[str, Any]]]:
    """Evaluate a batch and write its images; returns what is to be written of it at last."""
    started, watch = time.monotonic(), Stopwatch(plan.device)
    with watch.part("load"):
        images = plan.source.load(batch, plan.defended.classifier.input_size).to(plan.device)
    (outcome, targets), chunk = settled(lambda rows: _evaluate(plan, batch, images, rows, shared, watch), chunk)
    evaluated = time.monotonic()
    share = round((evaluated - started) / len(batch), 4)
    records = [record | {"seconds": share} for record in records_of(plan, batch, outcome, targets)]
    tensors = {"ids": _ids(batch)[outcome.attacked.cpu()], "images": outcome.attack.images}
    checksums = directory.write_tensors("adversarial", number, tensors)
    if number * plan.batch < PICTURES:
        checksums |= directory.write_tensors("pictures", number, _pictures(plan, batch, images))
    now = time.monotonic()
    split = {part: round(seconds, 3) for part, seconds in watch.read().items()} | {"write": round(now - evaluated, 3)}
    ids = [item.id for item in batch]
    done = Finished(number, ids, checksums, checksum_of(records), chunk, round(now - started, 3), split)
    return done, records


def _evaluate(
    plan: Plan, batch: list[Item], images: Tensor, chunk: int, shared: SharedVotes | None, watch: Stopwatch
) -> tuple[Outcome, Tensor | None]:
    """What became of a batch, and its targets."""
    labels = torch.tensor([item.label for item in batch], device=plan.device)
    ids = _ids(batch).to(plan.device)
    targets = benign = None
    if plan.target is not None:
        targets = choose_targets(plan.target, plan.defended, images, labels, ids, chunk)
    if shared is not None:
        with watch.part("benign vote"):
            benign = shared.benign_vote(plan, images, ids, chunk)
    outcome = evaluate_batch(
        plan.defended,
        images,
        labels,
        with_chunk(plan.attack, chunk),
        votes=plan.votes,
        stop=plan.stop,
        alpha=plan.alpha,
        targets=targets,
        ids=ids,
        chunk=chunk,
        benign=benign,
        watch=watch,
    )
    return outcome, targets


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
        "git_commit": _commit(),
        "class_names": list(plan.defended.classifier.class_names or []),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    """The commit of the source that runs, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
