"""What BaRT's kernels are predicted to cost beside the gradient of the classifier that they defend.

Predictions from bytes and operations (see `cannonade.bench.audit`), for one 224×224 image of a large batch on an H100.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from cannonade.bench.audit import PIXELS, cases, model_gradient_microseconds, predicted
from cannonade.bench.fake_gpu import FAKE_GPU, Launched, fake_gpu
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.kernels.backend import carry
from cannonade.kernels.device.case import Case
from cannonade.kernels.device.rows import every
from cannonade.models.efficientnet_lite import EfficientNetLite0
from cannonade.transforms.base import Transform

_SIDE = 224
_STEPS = 5  # k of BaRT, as published


@dataclass(frozen=True)
class Cost:
    """One of BaRT's transforms.

    Attributes:
        name: of the transform.
        probability: that it is one of an image's five.
        microseconds: predicted, forward and backward; None where it has no launchers.
    """

    name: str
    probability: float
    microseconds: float | None


@cache
def model_microseconds() -> float:
    """The bare gradient of EfficientNet-Lite0: what its layers write in float32, and their multiplications.

    Counted in its layers by hooks: convolutions, normalisations and the last product, each of which writes its result once.
    Activations that are functions and no layers are left out, so that the gradient is rather too cheap than too dear.
    """
    written = multiplied = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal written, multiplied
        written += 4 * out.numel()
        if isinstance(layer, nn.Conv2d):
            multiplied += out.numel() * layer.weight[0].numel()
        if isinstance(layer, nn.Linear):
            multiplied += layer.weight.numel()

    with torch.device("meta"):
        model = EfficientNetLite0().eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                layer.register_forward_hook(count)
        model(torch.empty(1, 3, _SIDE, _SIDE))
    return model_gradient_microseconds(written, multiplied)


def costs() -> list[Cost]:
    """Every transform of BaRT, in the order of its groups."""
    program = BaRT(k=_STEPS)
    return [
        Cost(member.name, probability, _microseconds(member))
        for member, probability in zip(program.members, program.probabilities, strict=True)
    ]


def expected_microseconds(found: Iterable[Cost]) -> float:
    """Σ p·µs: what the kernels of one image's program cost on average."""
    return sum(cost.probability * cost.microseconds for cost in found if cost.microseconds is not None)


def _microseconds(member: Transform) -> float | None:
    launched = kernels_of(member)
    if launched is None:
        return None
    found = {case.name: case for case in map(_case_of, launched)}.values()
    return sum(predicted(case.bytes_per_pixel * PIXELS, case.operations * PIXELS) for case in found)


def kernels_of(member: Transform) -> list[Launched] | None:
    """What a transform launches, forward and backward; None where it has no launchers."""
    shape = torch.Size((1, 3, _SIDE, _SIDE))
    zero = torch.zeros(1, dtype=torch.int64)
    params = member.sample(Draws(seed=0, phase=Phase.ATTACK, images=zero, queries=zero), shape)
    if member.step(params) is None:  # real parameters first: what is computed once must hold values
        return None
    with fake_gpu() as launched:
        step = member.step({key: carry(value, FAKE_GPU) for key, value in params.items()})
        images, out = (every(torch.empty(shape, device=FAKE_GPU)) for _ in range(2))
        if step is not None:
            kept = step.forward(out, images)
            step.backward(images, out, images, *kept)
    return launched


def _case_of(launch: Launched) -> Case:
    """The case that a launch is compiled as, by the constants that they share."""
    same = [case for case in cases() if case.kernel is launch.kernel]
    if not same:
        raise LookupError(f"{launch.kernel.__name__} is launched and no case of `CASES` compiles it")
    return max(same, key=lambda case: sum(launch.arguments.get(key) == value for key, value in case.constants.items()))
