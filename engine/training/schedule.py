"""The learning rate of a step: half a cosine from the top to zero (Loshchilov and Hutter, ICLR 2017)."""

import math


def learning_rate(step: int, total: int, top: float, warmup: int = 0) -> float:
    """The rate of a step, a function of nothing else.

    Args:
        step: 0 … total − 1.
        total: steps of the whole training.
        top: the highest rate.
        warmup: steps in which the rate rises to the top in a straight line.
    """
    if step < warmup:
        return top * (step + 1) / (warmup + 1)
    return top * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
