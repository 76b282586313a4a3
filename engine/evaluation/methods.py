"""A run in words, ready for a paper's methods section."""

from collections.abc import Mapping
from typing import Any

from cannonade.spec import parse_call


def methods(run: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One paragraph with every setting that decides the numbers.

    Args:
        run: the content of `run.json`.
        summary: the content of `summary.json`.
    """
    settings, calls, versions = run["configuration"], run["configuration"]["calls"], run["versions"]
    target = {
        None: "untargeted",
        "least_likely": "targeted at the least likely class",
        "random": "targeted at random classes",
    }
    goal = target.get(settings["target"], f"targeted at class {settings['target']}")
    stop = settings["stop"]
    ended = "" if stop is None else f", ended early by the {stop} rule"
    gradient = "" if calls["gradient"] == "none" else f", with gradients by {calls['gradient']}"
    average = summary["gradients_per_image"]
    cost = "" if not average else f" ({average:.0f} defended gradients an image)"
    return (
        f"We evaluated {settings['model']} behind {calls['defense']} on {settings['images']} images of {settings['data']}. "
        f"Every prediction is a majority vote over {settings['votes']} independent draws of the defense{ended}. "
        f"The attack is {calls['attack']}, {goal}{gradient}{cost}. Following Gao et al. (NeurIPS 2022, section 6.1), images "
        "that satisfy the attack's goal before it are not attacked, and the success rate is the share of the "
        f"{summary['attacked']} attacked images that satisfy it after; benign, final and null votes use draws of their own. "
        f"Intervals are Wilson's at 95 %. Seed {settings['seed']}, batch {settings['batch']}, "
        f"{run['resolved_chunk']} rows of a pass, {settings['device']}; cannonade {versions['cannonade']}, "
        f"PyTorch {versions['torch']}; configuration {run['config_hash'][:12]}, weights {settings['weights_sha256'][:12]}, "
        f"data {settings['data_sha256'][:12]} (SHA-256)."
    )


def without_argument(call: str, argument: str) -> tuple[str, int | None]:
    """A call without one of its arguments, and that argument."""
    name, arguments = parse_call(call, "call")
    value = arguments.pop(argument, None)
    return f"{name}({', '.join(f'{key}={content!r}' for key, content in arguments.items())})", value
