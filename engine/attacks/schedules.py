"""Step sizes over the course of an attack: for each schedule, the factor by which the first step size is multiplied."""

from collections.abc import Callable
from math import cos, floor, pi

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + cos(pi * progress)) / 2,
    "halving": lambda progress: 0.5 ** floor(4 * progress),
}
"""Factor by the share of the steps already made, in [0, 1): cosine goes to nearly 0, halving halves after each quarter."""
