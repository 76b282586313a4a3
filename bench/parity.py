"""Agreement of a transform with its oracle, given the same image bits and the same parameters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cannonade.bench.oracles import Oracle
from cannonade.draws import Draws, Phase
from cannonade.transforms.base import Transform


@dataclass(frozen=True)
class Parity:
    """Differences in units of [0, 1].

    Attributes:
        mean: the largest mean absolute difference of any image.
        max: the largest difference of any pixel.
        effect: mean |T(x) − x| over all images and draws, which the tolerance must be small against; 1 where T changes the
            size.
    """

    mean: float
    max: float
    effect: float


def noisy(images: Tensor, std: float = 0.05) -> Tensor:
    """The images plus N(0, std²), clipped to [0, 1]."""
    ids = torch.arange(len(images))
    draws = Draws(seed=20, phase=Phase.START, images=ids, queries=torch.zeros_like(ids))
    return (images + draws.site(0).normal(0.0, std, images.shape[1:])).clamp(0, 1)


def parity(transform: Transform, oracle: Oracle, images: Tensor, draws: int = 8, seed: int = 0) -> Parity:
    """Compare a transform with its oracle over several draws of parameters.

    Args:
        images: [N, 3, H, W] float32 in [0, 1].
        draws: how many sets of parameters each image gets.
    """
    if oracle.eight_bit:
        images = (images * 255).round() / 255
    ids = torch.arange(len(images))
    arrays = images.permute(0, 2, 3, 1).double().numpy()
    means, largest, effects = [], [], []
    for query in range(draws):
        streams = Draws(seed=seed, phase=Phase.ATTACK, images=ids, queries=torch.full_like(ids, query))
        params = transform.sample(streams, images.shape)
        ours = transform.transform(images, params).permute(0, 2, 3, 1).double().numpy()
        if oracle.floor_output:
            ours = np.floor(255 * ours + 1e-3) / 255
        for row, array in enumerate(arrays):
            own = {key: value[row].numpy() for key, value in params.items()}
            difference = np.abs(ours[row] - oracle.function(array, own))
            means.append(difference.mean())
            largest.append(difference.max())
            if ours[row].shape == array.shape:
                effects.append(np.abs(ours[row] - array).mean())
    return Parity(mean=float(max(means)), max=float(max(largest)), effect=float(np.mean(effects or 1.0)))
