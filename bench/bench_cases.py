"""`pytest bench`: defended gradients and votes, and the bare model's beside them, on pytest-benchmark's statistics."""

from typing import Any

import pytest

from cannonade.bench.overhead import SAMPLES, Sides
from cannonade.bench.subjects import photos

DEFENSES = ("smoothing", "rotation", "bart_gao(k=6)")


@pytest.fixture(scope="module")
def sides() -> Sides:
    """A small network that is quick on any machine: ResNet-20 at 32 pixels, a batch of 16."""
    return Sides("cifar_resnet20", photos("samples", 16, 32), rounds=1)


@pytest.mark.parametrize("defense", DEFENSES)
def test_gradient(benchmark: Any, sides: Sides, defense: str) -> None:
    benchmark(sides.defended_gradient(defense, SAMPLES))


def test_bare_gradient(benchmark: Any, sides: Sides) -> None:
    benchmark(sides.bare_gradient(SAMPLES))


@pytest.mark.parametrize("defense", DEFENSES)
def test_vote(benchmark: Any, sides: Sides, defense: str) -> None:
    benchmark(sides.vote(defense))


def test_bare_predictions(benchmark: Any, sides: Sides) -> None:
    benchmark(sides.forwards)
