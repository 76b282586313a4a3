"""Defenses inside the classifier: they leave the images as they are and change what the network makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cannonade.draws import Draws, Stream
from cannonade.errors import InputError
from cannonade.kernels.backend import carry

MODEL_SIDE: dict[str, type["ModelDefense"]] = {}
_SITES = 64  # of one part of the draws

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelDefense(ABC):
    """A defense that acts inside the classifier. Like a `Transform`, it is named completely by its fields.

    A subclass is registered under the name it gives: `class KWTA(ActivationDefense, name="kwta")`.

    Attributes:
        deterministic: whether every prediction of an image is the same.
        trainable: whether a network can be trained behind it.
    """

    name: ClassVar[str]
    deterministic: ClassVar[bool] = False
    trainable: ClassVar[bool] = True

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        if name is not None:
            MODEL_SIDE[name] = cls

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """The images as they are."""
        return images

    @abstractmethod
    def inside(self, classifier: Network, images: Tensor, draws: Draws) -> Tensor:
        """The logits of the classifier with the defense in it.

        Args:
            classifier: maps [N, 3, H, W] to [N, K]; eager, since a compiled network cannot be reached into.
            images: [N, 3, H, W] in [0, 1].
            draws: N streams, best on the host.

        Returns:
            [N, K].
        """


def numbered_stream(draws: Draws, number: int, device: torch.device) -> Stream:
    """The streams of the place with this number, 0 to 4031, on a device: more places than one part has sites."""
    stream = draws.part(number // _SITES).site(number % _SITES)
    return Stream(carry(stream.coordinates, device))


@dataclass(frozen=True, kw_only=True)
class ActivationDefense(ModelDefense):
    """A defense that puts something else in place of every ReLU, in the order in which the network calls them.

    ReLU and ReLU6 are recognised as they are called, as modules, functions or methods, so that any eager network will do.
    """

    def spares(self, number: int) -> bool:
        """Whether the network's activation with this number, from 0, stays as it is."""
        return False

    @abstractmethod
    def activate(self, values: Tensor, relu: Network, stream: Stream) -> Tensor:
        """What stands in place of one ReLU.

        Args:
            values: [N, …], its input.
            relu: the function that is replaced.
            stream: N streams of this place in the network, on the device of the values.
        """

    def inside(self, classifier: Network, images: Tensor, draws: Draws) -> Tensor:
        """See `ModelDefense`.

        Raises:
            InputError: the classifier has no ReLU to replace, is compiled, or makes other rows than images.
        """
        if getattr(classifier, "compiled", False):
            raise InputError(f"{self.name} replaces activations as they are called: give a classifier without compile")
        with _Replaced(self, draws) as replaced:
            logits = classifier(images)
        if replaced.number == 0:
            raise InputError(
                f"{self.name} needs a network with ReLU or ReLU6 activations that is not scripted, met none"
            )
        if all(self.spares(number) for number in range(replaced.number)):
            raise InputError(f"{self} spares all {replaced.number} activations of the network: replace some")
        return logits


class _Replaced(TorchFunctionMode):
    """While it is entered, every ReLU called on this thread is the defense's activation."""

    def __init__(self, defense: ActivationDefense, draws: Draws) -> None:
        super().__init__()
        self.number = 0
        self._defense, self._draws = defense, draws

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = _RELUS[func](*args, **kwargs) if func in _RELUS else None
        if call is None:
            return func(*args, **kwargs)
        values, relu, in_place = call
        if len(values) != len(self._draws):
            raise InputError(
                f"{self._defense.name} needs a network that keeps one row per image: {len(self._draws)} images became "
                f"{len(values)} rows"
            )
        number = self.number
        self.number += 1
        if self._defense.spares(number):
            return func(*args, **kwargs)
        stream = numbered_stream(self._draws, number, values.device)
        if not in_place:
            return self._defense.activate(values, relu, stream)
        # Of a copy, because backward may want the input that is overwritten.
        return values.copy_(self._defense.activate(values.clone(), relu, stream))


_Call = tuple[Tensor, Network, bool]  # input, the function, whether it overwrites its input


def _relu(input: Tensor, inplace: bool = False) -> _Call:
    return input, torch.relu, inplace


def _relu_in_place(input: Tensor) -> _Call:
    return input, torch.relu, True


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Call | None:
    """nn.ReLU6 is a hardtanh from 0 to 6."""
    return (input, lambda values: values.clamp(0, max_val), inplace) if min_val == 0 else None


def _relu6(input: Tensor, inplace: bool = False) -> _Call | None:
    return _hardtanh(input, 0.0, 6.0, inplace)


_RELUS: dict[Any, Callable[..., _Call | None]] = {
    functional.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _relu_in_place,
    Tensor.relu_: _relu_in_place,
    functional.relu6: _relu6,
    functional.hardtanh: _hardtanh,
}
