"""What runs that attack the same defended classifier on the same images have in common, computed once."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cannonade.chunking import Chunk, resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.voting import Votes, majority_vote

_NO_LIMIT = 1 << 62


class SharedVotes:
    """The rows of one pass and the benign votes of a (model, data, defense, seed, number of votes).

    A benign vote has the bits that each run would have found for itself, because its draws are a function of seed and image.
    """

    def __init__(self) -> None:
        self.measured: int | None = None  # rows of a pass that the memory allows, however few a run has
        self._votes: dict[tuple[int, ...], Votes] = {}
        self._records: dict[tuple[int, ...], list[dict[str, Any]]] = {}

    def read(self, path: Path) -> None:
        """Take over what stands in the directory of one of the runs, by this process or another; it need not be there."""
        directory = RunDirectory(path)
        if not directory.begun:
            return
        header = directory.read_json("run.json")
        self.measured = self.measured or header["measured_chunk"]
        for finished, records in directory.read_lines().values():
            self._records[_key(finished.ids, finished.chunk, header["configuration"]["votes"])] = records

    def chunk(self, chunk: Chunk, defended: DefendedClassifier, images: Tensor, rows: int) -> int:
        """As `resolve_chunk`, but measured once: the memory that is free differs from one time to the next."""
        if self.measured is None:
            self.measured = resolve_chunk(chunk, defended, images, _NO_LIMIT)
        return min(self.measured, rows)

    def benign_vote(self, plan: Plan, images: Tensor, ids: Tensor, chunk: int) -> Votes:
        """The vote on the clean images of a batch, cast when it is first asked for.

        Args:
            plan: of any of the runs.
            images: [N, 3, H, W] in [0, 1], always the same for the same ids.
            ids: [N] int64, each image's index in its data set.
            chunk: rows of one pass. The model may round by it, so that passes of another size are another vote.
        """
        key = _key(ids.tolist(), chunk, plan.votes)
        if key in self._records:
            return _restored(self._records[key], plan, chunk)
        if key in self._votes:
            return self._votes[key]
        votes = majority_vote(
            plan.defended, images, plan.votes, stop=plan.stop, alpha=plan.alpha, phase=Phase.BENIGN_VOTE, ids=ids,
            chunk=chunk,
        )  # fmt: skip
        if votes.chunk == key[-1]:  # memory lasted for these rows
            self._votes[key] = votes
        return votes


def _key(ids: list[int], chunk: int, votes: int) -> tuple[int, ...]:
    return (*ids, min(chunk, len(ids) * votes))


def _restored(records: list[dict[str, Any]], plan: Plan, chunk: int) -> Votes:
    """The votes that records tell of."""
    counts = torch.zeros(len(records), plan.defended.num_classes, dtype=torch.int64)
    for row, record in enumerate(records):
        for label, count in record["benign_counts"].items():
            counts[row, int(label)] = count
    columns = [[record[name] for record in records] for name in ("benign_label", "benign_forwards")]
    labels, forwards = torch.tensor(columns, dtype=torch.int64, device=plan.device)
    return Votes(counts.to(plan.device), labels, forwards, chunk)
