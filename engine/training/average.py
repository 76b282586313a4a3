"""An exponential mean over the weights of a training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The mean over weights and batch-norm statistics; integers are those of the moment.

    Args:
        module: whose weights it starts from.
        decay: how much of the mean is kept each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - self.decay)
            else:
                self.state[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on with a mean that was saved."""
        for name, value in state.items():
            self.state[name].copy_(value)
