"""What an attacker who only asks sees of a stochastic classifier: the scores of several predictions, or only their labels."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from cannonade.attacks.forwards import predict
from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import Loss, margin
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws

Reading = Literal["mean", "vote"]
READINGS: tuple[str, ...] = get_args(Reading)


def ask(
    defended: DefendedClassifier,
    images: Tensor,
    goal: Goal,
    loss: Loss,
    draws: Draws,
    samples: int,
    reading: Reading,
    chunk: int,
) -> tuple[Tensor, int]:
    """How far images are on the way to their goal, from several predictions of each.

    Args:
        defended: the classifier that is asked.
        images: [N, C, H, W] in [0, 1], N ≥ 1.
        goal: of N images.
        loss: of the scores; not used by "vote".
        draws: N streams; prediction j of an image is its stream j queries later.
        samples: m, predictions of each image.
        reading: "mean" for the mean objective of the predictions; "vote" for the lead among their labels, as a share of m.
        chunk: rows of one pass.

    Returns:
        [N], larger is closer to the goal and −inf where it is NaN; and the chunk, smaller after a retreat.
    """
    predictions = predict(defended, images, draws, samples, chunk)
    if reading == "mean":
        objective = predictions.objective(goal, loss, "loss")
    else:
        labels = predictions.logits.argmax(2)
        shares = functional.one_hot(labels, defended.num_classes).to(images.dtype).mean(0)
        objective = goal.objective(shares, margin)
    return objective.nan_to_num(nan=-torch.inf), predictions.chunk
