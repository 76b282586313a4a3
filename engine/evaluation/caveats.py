"""What the numbers of runs call for caution about, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from cannonade.evaluation.methods import without_argument
from cannonade.evaluation.paired import Paired

_FEW = 100  # attacked images: the 95 % interval of a rate near one half is then 19 points wide
_ALPHA = 0.01
_IDENTITY = "backward='identity'"  # in the representation of a defense
_WEAK = ("transfer", "square", "nes", "noise")  # attacks that the white box should beat


def caveats(summary: Mapping[str, Any], configuration: Mapping[str, Any]) -> list[str]:
    """Of one run, from the content of its `summary.json` and the configuration in its `run.json`."""
    found = []
    if _IDENTITY in configuration["defense"] and configuration["calls"]["gradient"] != "none":
        found.append(
            "The attack took the identity for the gradient of transforms (BPDA). A network that was trained on them may "
            f"withstand that and yet fall to their own gradients: attack it with {_IDENTITY.replace('identity', 'own')} too."
        )
    attacked, images = summary["attacked"], summary["images"]
    if attacked < _FEW:
        found.append(
            f"Only {attacked} images were attacked: the success rate is known no better than its interval says, and "
            "differences from other runs should be judged image by image."
        )
    if count := summary["targets_equal_to_label"]:
        found.append(f"{count} images were not attacked, because their target is their label.")
    if count := summary["nonfinite_gradient_images"]:
        found.append(
            f"{count} images had steps with a gradient that was not finite. They stood still at those steps, so the "
            "success rate is a lower bound."
        )
    if count := summary["zero_gradient_images"]:
        found.append(
            f"{count} images had steps with a gradient of zero everywhere: a sign that the gradient is masked, and that the "
            "success rate says little about robustness."
        )
    null, success = summary["null_success_rate"], summary["success_rate"]
    if null and 2 * null >= success:
        found.append(
            f"The vote alone changes its mind on {100 * null:.1f} % of the unperturbed images, at least half of what the "
            "attack reaches: more votes would tell the attack from chance."
        )
    lost = (summary["undefended_accuracy"] or 0) - (summary["benign_accuracy"] or 0)
    if lost > 0.1:
        found.append(
            f"The defense costs {100 * lost:.0f} points of accuracy on clean images, and the {images - attacked} images that "
            "were not attacked are left out of the success rate: read both together."
        )
    return found


def caveats_between(runs: Sequence[tuple[str, Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Signs of masked gradients that only runs side by side show (Athalye et al. 2018; Carlini et al. 2019, section 3).

    Judged image by image on what both attacked (McNemar, two-sided, p < 0.01).

    Args:
        runs: name, configuration and records of runs of the same images.
    """
    found = []
    for name, weak, weak_records in runs:
        for other, strong, strong_records in runs:
            reason = _should_lose(weak, strong)
            if reason is None:
                continue
            counts = Paired.of_records(weak_records, strong_records)
            if counts.points > 0 and counts.p < _ALPHA:
                found.append(
                    f"{name} breaks more than {other}, {counts.only_first} images against {counts.only_second} of "
                    f"{counts.pairs} where they differ, although {reason}: the gradient may be masked, or the step size wrong."
                )
    return found


def _should_lose(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> str | None:
    """Why the first attack should break no more than the second, if it should."""
    if any(weak[key] != strong[key] for key in ("target", "defense")):
        return None
    one, other = weak["calls"], strong["calls"]
    if one["attack"].partition("(")[0] in _WEAK and other["attack"].startswith(("pgd", "auto_pgd")):
        return "it sees no gradient of the defended model"
    (rest, few), (same, many) = (without_argument(call["attack"], "steps") for call in (one, other))
    if rest == same and one["gradient"] == other["gradient"] and few is not None and many is not None and few < many:
        return "it takes fewer steps"
    return None
