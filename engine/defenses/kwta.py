"""k-winners-take-all activations (Xiao et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cannonade.defenses.model_side import ActivationDefense, Network
from cannonade.draws import Stream
from cannonade.errors import InputError


@dataclass(frozen=True, kw_only=True)
class KWTA(ActivationDefense, name="kwta"):
    """In place of every ReLU the k largest values of an image's layer stay, over all channels, and the others become 0.

    k is the fraction γ of the layer's values, rounded down but at least 1; values equal to the k-th stay too, and negative
    ones may be among the winners (Xiao et al., equation 1). Nothing is random. The gradient is exact, the winners', and changes
    with every small step, which is what defends; `FiniteDifferences` averages over that. A network must be trained with it.

    Attributes:
        fraction: γ, in (0, 1].
        first: number of the first activation that is replaced; those before stay ReLUs. 1 is the published ResNet-18 of
            CIFAR-10, whose stem has its own (`xiao_resnet18`).
    """

    deterministic: ClassVar[bool] = True

    fraction: float = 0.1
    first: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"kwta: fraction must be in (0, 1], got {self.fraction}")
        if self.first < 0:
            raise InputError(f"kwta: first must be at least 0, got {self.first}")

    def spares(self, number: int) -> bool:
        """See `ActivationDefense`."""
        return number < self.first

    def activate(self, values: Tensor, relu: Network, stream: Stream) -> Tensor:
        """See `ActivationDefense`."""
        flat = values.detach().flatten(1)
        winners = max(1, int(self.fraction * flat.shape[1]))
        least = flat.topk(winners, dim=1).values[:, -1]
        return values.where(values >= least.view(-1, *(1,) * (values.dim() - 1)), 0)
