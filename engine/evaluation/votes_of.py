"""What the votes in an image's record say."""

from collections.abc import Mapping
from typing import Any


def right_share(record: Mapping[str, Any], counts: str) -> float:
    """Share of the votes for the true label.

    Args:
        record: a line of `images.jsonl`.
        counts: "benign_counts" or "adversarial_counts".
    """
    votes: dict[str, int] = record[counts]
    return votes.get(str(record["label"]), 0) / sum(votes.values())


def goal_share(record: Mapping[str, Any]) -> float:
    """Share of the votes on an attacked image that give the attack what it wants: the target, or any wrong label."""
    votes: dict[str, int] = record["adversarial_counts"]
    if record["target"] is None:
        return 1 - right_share(record, "adversarial_counts")
    return votes.get(str(record["target"]), 0) / sum(votes.values())
