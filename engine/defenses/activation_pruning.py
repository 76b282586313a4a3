"""Stochastic activation pruning (Dhillon et al., ICLR 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cannonade.defenses.model_side import ActivationDefense, Network
from cannonade.draws import Stream
from cannonade.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ActivationPruning(ActivationDefense, name="activation_pruning"):
    """After every ReLU r activations are sampled with replacement, in proportion to their size; the others become 0.

    Activation j of an image's layer, of share p_j = |h_j| / Σ|h|, is kept with probability 1 − (1 − p_j)^r and divided by it,
    so that its mean is h_j (Dhillon et al., algorithm 1). The sampling is exact to the 32 bits of a word.

    The gradient goes through the pruning: it is that of the activations kept, times the factor they got, which is a constant
    in backward. Its mean over draws is then 1 for every activation, as without pruning. A layer's shares hang on rounding, so
    that the same draws may, rarely, keep another activation in another batch.

    Attributes:
        samples: r, as a multiple of the layer's number of activations; the paper's SAP-100 is 1.
    """

    samples: float = 1.0

    def __post_init__(self) -> None:
        if not self.samples > 0:
            raise InputError(f"activation_pruning: samples must be positive, got {self.samples}")

    def activate(self, values: Tensor, relu: Network, stream: Stream) -> Tensor:
        """See `ActivationDefense`."""
        activations = relu(values)
        return activations * self._factors(activations.detach(), stream)

    @torch.no_grad()
    def _factors(self, activations: Tensor, stream: Stream) -> Tensor:
        """0 where an activation is pruned, else the inverse of the probability that it is kept: of the activations' shape."""
        sizes = activations.flatten(1).abs().double()
        draws = max(1, round(self.samples * sizes.shape[1]))
        reached = sizes.cumsum(1)
        total = reached[:, -1:]
        # r uniform numbers in ascending order are the partial sums of r + 1 exponential ones, divided by all of them.
        sums = -torch.log((stream.words(draws + 1).double() + 0.5) * 2.0**-32).cumsum(1)
        points = sums[:, :-1] / sums[:, -1:] * total
        below = torch.searchsorted(points, reached)  # of the points, how many fall on an activation or on one before it
        kept = below.diff(dim=1, prepend=torch.zeros_like(below[:, :1])) > 0
        probability = -torch.expm1(draws * torch.log1p(-sizes / total))
        return torch.where(kept, 1 / probability, 0).to(activations.dtype).view(activations.shape)
