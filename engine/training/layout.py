"""The memory layout of a network in training."""

import torch
from torch import nn

_BLOCK = 16  # channels of the widest register


def lay_out(module: nn.Module, channels_last: bool = True) -> bool:
    """Lay a network's weights out channels_last where that is wanted and its weight gradients are right, and say whether it is.

    On a CPU a network stays contiguous if it has a 1×1 convolution with a stride and fewer than 16 input channels: of the
    weight gradient of such a layer in channels_last, oneDNN makes wrong numbers, writes where it must not, or hangs
    (github.com/uxlfoundation/oneDNN/issues/6035; met with 4 channels on AVX2, PyTorch 2.14).

    Args:
        module: on the device where it will be trained.
        channels_last: whether it is wanted.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    laid_out = channels_last and not (on_cpu and any(map(_is_broken, module.modules())))
    if laid_out:
        module.to(memory_format=torch.channels_last)
    return laid_out


def _is_broken(part: nn.Module) -> bool:
    if not isinstance(part, nn.Conv2d):
        return False
    return part.kernel_size == (1, 1) and max(part.stride) > 1 and part.in_channels // part.groups < _BLOCK
