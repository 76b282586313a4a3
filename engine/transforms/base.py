"""The contract of a transform: parameter ranges in, per-image parameters drawn, then a deterministic function of tensors."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.backend import carry, choose
from cannonade.kernels.device.pointwise import Operation
from cannonade.kernels.device.rows import Step
from cannonade.kernels.pointwise import pointwise_step
from cannonade.spans import span

Params = Mapping[str, Tensor]

REGISTRY: dict[str, type["Transform"]] = {}

_SLICE_PIXELS = 1 << 18  # five images of 224×224: a few of their planes fit a core's cache


class Gradient(Enum):
    """What backward through a transform computes."""

    EXACT = "autograd through the operation itself"
    STRAIGHT_THROUGH = "true forward, backward of a smooth stand-in (BPDA, Athalye et al. 2018)"


class _Straight(torch.autograd.Function):
    """The value of the first argument with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def straight_through(value: Tensor, stand_in: Tensor) -> Tensor:
    """`value`, bit for bit, with backward going to `stand_in` as if it had been returned (BPDA).

    Args:
        value: the true result; no gradient reaches it.
        stand_in: a tensor of the same shape and dtype.
    """
    straight: Tensor = _Straight.apply(value.detach(), stand_in)
    return straight


class _InSlices(torch.autograd.Function):
    """A transform of a few images at a time, run again in backward: what it keeps is its input."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, transform: "Transform", params: Params, size: int) -> Tensor:
        ctx.save_for_backward(images)
        ctx.slices = [
            (slice(start, start + size), {key: value[start : start + size] for key, value in params.items()})
            for start in range(0, len(images), size)
        ]
        ctx.transform = transform
        return torch.cat([transform.apply(images[rows], own) for rows, own in ctx.slices])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (images,) = ctx.saved_tensors
        out = torch.empty_like(images, memory_format=torch.contiguous_format)
        for rows, own in ctx.slices:
            leaf = images[rows].detach().requires_grad_()
            with torch.enable_grad():
                value = ctx.transform.apply(leaf, own)
            (out[rows],) = torch.autograd.grad(value, leaf, grads[0][rows])
        return out, None, None, None


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """A random image transform. Its fields are its parameter ranges, so `repr` names it completely.

    A transform is itself a defense: `transform(images, draws)` samples one set of parameters per image and applies it.
    Writing a subclass registers it under the snake-case form of its class name (but for a leading underscore), and the
    contract tests run over the registry.

    Attributes:
        backward: "own" for the transform's gradient, "identity" for identity BPDA, which treats the transform and its
            clamp as the identity in backward, as the paper's authors did throughout.
        least_side: the smallest height and width that it can transform.
        in_slices: when a CPU does well to take a few images at a time and to compute again in backward: as PyTorch's chain of
            many light operations, whose intermediate results would fill the memory and miss the cache.
        operation: the colour operation that it is, where it is one; see `operation_parameters`.
        on_host: names of the parameters that are read on the host, and do not follow the images to their device.
        deterministic: whether every draw is the same.
        trainable: whether a network can be trained behind it.
        example: constructor arguments of a small example, where the defaults alone make nothing that can run.

    Example:
        >>> from cannonade import Phase, build_defense
        >>> rotation = build_defense("rotation(degrees=90)")
        >>> ids = torch.arange(2)
        >>> draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
        >>> rotation(torch.rand(2, 3, 16, 16), draws).shape
        torch.Size([2, 3, 16, 16])
    """

    name: ClassVar[str]
    gradient: ClassVar[Gradient]
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    least_side: ClassVar[int] = 2
    in_slices: ClassVar[Literal["never", "without native code", "always"]] = "never"

    operation: ClassVar[Operation | None] = None
    on_host: ClassVar[frozenset[str]] = frozenset()
    deterministic: ClassVar[bool] = False
    trainable: ClassVar[bool] = True

    backward: Literal["own", "identity"] = "own"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__.lstrip("_")).lower()
        if not cls.__name__.startswith("_"):
            REGISTRY[cls.name] = cls

    @property
    def keeps_range(self) -> bool:
        """Whether images in [0, 1] stay in [0, 1]: true of every transform but smoothing without clipping."""
        return True

    @abstractmethod
    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one set of parameters per image.

        Args:
            draws: N streams, best on the host whatever the device of the images: words are the same on both, a few of them
                are drawn sooner there, and what is read on the host is there already.
            shape: [N, 3, H, W], the shape of the images the parameters are for.

        Returns:
            Tensors with first dimension N, on the device of the draws.
        """

    @abstractmethod
    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Transform each image by its parameters: a deterministic, differentiable function.

        Args:
            images: [N, 3, H, W] in [0, 1], float32 or float64.
            params: what `sample` returned for images of this shape.

        Returns:
            [N, 3, H, W] of the same dtype.
        """

    def step(self, params: Params) -> Step | None:
        """The same by launchers on rows of a buffer, gradient included; None where there are none.

        Args:
            params: what `sample` returned.
        """
        if self.operation is None:
            return None
        parameters = self.operation_parameters(params)
        numbers = torch.full((len(parameters), 1), int(self.operation), device=parameters.device)
        return pointwise_step(numbers, parameters[:, None], clamp=False)

    def operation_parameters(self, params: Params) -> Tensor:
        """Of a colour operation that a kernel runs in registers: [N, P] float32, as the kernel takes them."""
        raise NotImplementedError(f"{self.name} is not a colour operation")

    def transform(self, images: Tensor, params: Params) -> Tensor:
        """`apply` in the precision and with the backward asked for: half precision is computed in float32.

        Parameters follow the images to their device, without waiting for it.

        Raises:
            InputError: the images are not RGB, or too small. Their values are checked at the door of an attack or a vote, not
                here, where it would wait for the device.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"{self.name}: images must be RGB floats [N, 3, H, W], got {list(images.shape)} {images.dtype}"
            )
        if min(images.shape[2:]) < self.least_side:
            raise InputError(
                f"{self.name}: image sides must be at least {self.least_side}, got {list(images.shape[2:])}: use larger images"
            )
        params = {key: value if key in self.on_host else carry(value, images.device) for key, value in params.items()}
        half = images.dtype in (torch.float16, torch.bfloat16)
        wide = images.float() if half else images
        if self.backward == "identity":
            with torch.no_grad():
                value = self._apply(wide, params)
            out = straight_through(value, wide)
        else:
            out = self._apply(wide, params)
        return out.to(images.dtype)

    def _apply(self, images: Tensor, params: Params) -> Tensor:
        size = max(1, _SLICE_PIXELS // images.shape[2:].numel())
        in_native_code = choose("auto", images, native=images.dtype == torch.float32) == "native"
        whole = self.in_slices == "never" or (self.in_slices == "without native code" and in_native_code)
        if whole or not images.is_cpu or len(images) <= size:
            return self.apply(images, params)
        out: Tensor = _InSlices.apply(images, self, params, size)
        return out

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Draw parameters for each image and transform it: the form in which a transform is a defense."""
        with span("draws"):
            params = self.sample(draws, images.shape)
        with span("transforms"):
            return self.transform(images, params)

    def inside(self, classifier: Callable[[Tensor], Tensor], images: Tensor, draws: Draws) -> Tensor:
        """The classifier's logits for images already transformed: inside it a transform does nothing."""
        return classifier(images)
