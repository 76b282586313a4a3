"""What is known of each image of a run, and the rates that follow from it."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from cannonade.data.sources import Item
from cannonade.evaluation.outcome import Outcome
from cannonade.evaluation.plan import Plan, forwards_beside
from cannonade.evaluation.statistics import rate, wilson_interval

SPLIT = ("load", "benign vote", "attack", "final vote", "null vote", "write")  # where the seconds of a batch go


def records_of(plan: Plan, batch: Sequence[Item], outcome: Outcome, targets: Tensor | None) -> Iterator[dict[str, Any]]:
    """One record for each image of a batch, as a line of `images.jsonl` has it.

    Args:
        plan: of the run.
        batch: its items.
        outcome: what became of them.
        targets: [N] int64; None for an untargeted attack.
    """
    beside = forwards_beside(plan)
    place = {int(row): index for index, row in enumerate(outcome.attacked)}
    for row, item in enumerate(batch):
        record: dict[str, Any] = {
            "id": item.id,
            "name": item.name,
            "label": item.label,
            "target": None if targets is None else int(targets[row]),
            "undefended_label": int(outcome.undefended[row]),
            "invariance": float(outcome.invariance[row]),
            "benign_label": int(outcome.benign.labels[row]),
            "benign_counts": _sparse(outcome.benign.counts[row]),
            "benign_forwards": int(outcome.benign.forwards[row]),
            "votes_used": int(outcome.benign.used[row]),
            "attacked": row in place,
            "forwards": beside + int(outcome.benign.forwards[row]),
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
                "votes_used": record["votes_used"] + int(outcome.final.used[index] + outcome.null.used[index]),
                "forwards": record["forwards"] + int(later),
                "nonfinite_gradients": int(attack.nonfinite[index]),
                "zero_gradients": int(attack.zero[index]),
            }
        yield record


def summarise(records: Sequence[dict[str, Any]], votes: int) -> dict[str, Any]:
    """The rates of a run from its images' records (paper, section 6.1), with 95 % Wilson intervals.

    The invariance is Pr[F_θ(x) = F(x)] (paper, section 4), over draws and images.

    Args:
        records: of its images.
        votes: n of each vote.
    """
    attacked = [record for record in records if record["attacked"]]
    right = sum(record["benign_label"] == record["label"] for record in records)
    plain = sum(record["undefended_label"] == record["label"] for record in records)
    fooled = sum(record["success"] for record in attacked)
    wavering = sum(record["null_success"] for record in attacked)
    return {
        "images": len(records),
        "attacked": len(attacked),
        "undefended_accuracy": rate(plain, len(records)),
        "benign_accuracy": rate(right, len(records)),
        "benign_accuracy_ci95": wilson_interval(right, len(records)),
        "invariance": fmean(record["invariance"] for record in records) if records else None,
        "success_rate": rate(fooled, len(attacked)),
        "success_rate_ci95": wilson_interval(fooled, len(attacked)),
        "null_success_rate": rate(wavering, len(attacked)),
        "null_success_rate_ci95": wilson_interval(wavering, len(attacked)),
        "votes": votes,
        "votes_used": sum(record["votes_used"] for record in records),
        "gradients": sum(record["gradients"] for record in attacked),
        "gradients_per_image": rate(sum(record["gradients"] for record in attacked), len(attacked)),
        "forwards": sum(record["forwards"] for record in records),
        "targets_equal_to_label": sum(record["target"] == record["label"] for record in records),
        "nonfinite_gradient_images": sum(record["nonfinite_gradients"] > 0 for record in attacked),
        "zero_gradient_images": sum(record["zero_gradients"] > 0 for record in attacked),
    }


def _sparse(counts: Tensor) -> dict[str, int]:
    """The classes that got votes, the most voted first."""
    found = {int(label): int(counts[label]) for label in counts.nonzero()[:, 0]}
    return {str(label): count for label, count in sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))}
