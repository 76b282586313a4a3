"""What the adapters share: a framework of a tested version, and the classifier that our attacks work on."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar

from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from cannonade.attacks.attack import Attack
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity

_Attack = TypeVar("_Attack", bound=Attack)


def framework(module: str, distribution: str, oldest: str, newest: str) -> Any:
    """Import a framework.

    Args:
        module: its name in an import statement.
        distribution: its name on the package index.
        oldest, newest: the versions that the adapter was tested with.

    Raises:
        InputError: it is not installed.

    Warns:
        UserWarning: once, where the version is not between these.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"this adapter needs {distribution} {newest}, but {error.name} is not installed: pip install {distribution}"
        ) from error
    _check_version(distribution, oldest, newest)
    return found


@cache
def _check_version(distribution: str, oldest: str, newest: str) -> None:
    installed = version(distribution)
    if not _numbers(oldest) <= _numbers(installed) <= _numbers(newest):
        tested = newest if oldest == newest else f"{oldest} to {newest}"
        warnings.warn(f"{distribution} {installed} is installed, but cannonade was tested with {tested}", stacklevel=3)


def _numbers(text: str) -> list[int]:
    """1.20.1 as [1, 20, 1], without the zeros at the end."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


class Between(nn.Module):
    """A module with what a framework does before and after it; inside, so that it is copied, frozen and moved like any other.

    Args:
        module: what the framework wraps.
        before: images [N, 3, H, W] in [0, 1] to the module's input.
        after: its output to logits [N, K].
    """

    def __init__(
        self,
        module: nn.Module,
        before: Callable[[Tensor], Tensor],
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.module = module
        self.before, self.after = before, after

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.after(self.module(self.before(images)))


def as_defended(
    model: nn.Module, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> DefendedClassifier:
    """The classifier that our attacks work on.

    Args:
        model: a `DefendedClassifier`, which is taken as it is; or any module that maps images to logits, of which a frozen copy
            is attacked without defense. Randomness of such a module's own is averaged by `EOT` too, because every row of a
            pass is another prediction, but its draws are not ours and do not repeat.
        mean, std: per channel, where the module expects normalised images.

    Raises:
        InputError: a `DefendedClassifier` hidden inside another module, or one whose images would be normalised.
    """
    while isinstance(model, DistributedDataParallel | OptimizedModule):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod
    if isinstance(model, DefendedClassifier):
        if mean is not None or std is not None:
            raise InputError(
                "a DefendedClassifier takes images in [0, 1]; give mean and std to Classifier(module, mean=…, std=…) inside it"
            )
        return model
    if any(isinstance(part, DefendedClassifier) for part in model.modules()):
        raise InputError(
            f"a DefendedClassifier must be handed over itself, got it inside {type(model).__name__}; put what stands before it "
            f"into its defense, and normalisation into its Classifier"
        )
    module = model if isinstance(model, Classifier) else Classifier(model, mean=mean or (0, 0, 0), std=std or (1, 1, 1))
    return DefendedClassifier(module, Identity())


def with_fields(attack: _Attack, **changes: Any) -> _Attack:
    """The attack with other hyper-parameters.

    Raises:
        InputError: it has no such hyper-parameter.
    """
    known: list[str] = [field.name for field in fields(attack)] if is_dataclass(attack) else []
    for name in changes:
        if name not in known:
            raise InputError(f"{type(attack).__name__} has no {name} to set; it has {', '.join(known)}")
    changed: _Attack = replace(attack, **changes)  # type: ignore[type-var]
    return changed
