"""RobustBench's `benchmark`, for the stochastic classifiers that RobustBench leaves out: `(clean, robust)` by vote."""

import torch
from torch import nn

from cannonade.attacks.attack import Attack
from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.data.sources import open_source
from cannonade.errors import InputError
from cannonade.evaluation.outcome import evaluate_batch
from cannonade.integrations.door import as_defended, with_fields

NORM_OF = {"Linf": "linf", "L2": "l2", "L1": "l1"}  # RobustBench's and AutoAttack's names to ours


def benchmark(
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "samples",
    threat_model: str = "Linf",
    *,
    eps: float,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    votes: int = 100,
    attack: Attack | None = None,
) -> tuple[float, float]:
    """Accuracy before and under attack, both by majority vote.

    The arguments have RobustBench's names and order, as far as they mean something here: nothing is downloaded, and for more
    than two numbers there is `cannonade evaluate`. RobustBench itself is not needed.

    Args:
        model: what is attacked; see `door.as_defended`.
        n_examples: at most so many images, spread evenly over the data.
        dataset: a source as on the command line: a folder of class/image files, an archive, or "samples".
        threat_model: "Linf", "L2" or "L1".
        eps: radius of the ball in units of [0, 1].
        batch_size: images attacked at once.
        device: where to run; where the model is, by default.
        votes: n, predictions of a majority vote.
        attack: our attack, whose eps and norm are set; by default AutoPGD of 100 steps with 20 draws each, the strength of
            AutoAttack's version for randomised defenses.

    Returns:
        The share of images that the vote gets right, and the share that it still gets right under attack.

    Raises:
        InputError: no such threat model or data, or labels that are no classes of the model.
    """
    if threat_model not in NORM_OF:
        raise InputError(f"threat_model must be one of {', '.join(NORM_OF)}, got {threat_model!r}")
    if batch_size < 1 or n_examples < 1:
        raise InputError(f"batch_size and n_examples must be at least 1, got {batch_size} and {n_examples}")
    defended = as_defended(model)
    defended = defended if device is None else defended.to(device)
    settings = with_fields(attack or AutoPGD(gradient=EOT(samples=20)), norm=NORM_OF[threat_model], eps=eps)
    classifier, source = defended.classifier, open_source(dataset)
    if classifier.class_numbers is not None:
        source = source.numbered(classifier.class_numbers)
    source = source.limited(n_examples)
    source.check_labels(defended.num_classes)
    right = broken = 0
    for start in range(0, len(source), batch_size):
        items = source.items[start : start + batch_size]
        images = source.load(items, classifier.input_size).to(classifier.device)
        labels, ids = (
            torch.tensor(values, device=classifier.device)
            for values in zip(*((i.label, i.id) for i in items), strict=True)
        )
        outcome = evaluate_batch(defended, images, labels, settings, votes=votes, ids=ids)
        right += len(outcome.attacked)
        broken += int(outcome.success.sum())
    return right / len(source), (right - broken) / len(source)
