"""Where a gradient gets lost between the loss and the image: the classic false robustness, in words."""

import torch
from torch import Tensor

from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws
from cannonade.spec import call_text


def lost_gradient(defended: DefendedClassifier, images: Tensor, draws: Draws) -> str:
    """Why the gradient of an attack is missing or zero everywhere, and what to do.

    Args:
        defended: the classifier under attack.
        images: [N, C, H, W] in [0, 1], N ≥ 1.
        draws: N streams.
    """
    defense = defended.defense
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        transformed = defense(leaf, draws)
        if not _reaches(transformed, leaf):
            return (
                f"no gradient reaches the image through {call_text(defense.name, defense)}: its robustness to gradients says "
                "nothing; give the defense backward='identity' (BPDA), or attack with transfer, square or nes"
            )
        logits = defended.logits(leaf, draws)
    if not _reaches(logits, leaf):
        return (
            f"no gradient reaches the image through the classifier {defended.classifier.name}: it must not detach its "
            "input, switch gradients off or round; or attack with transfer, square or nes"
        )
    return (
        "no gradient reaches the image through the loss: it is flat at these images, as the cross entropy is where the "
        "classifier is certain; attack with loss='margin' or loss='dlr'"
    )


def _reaches(output: Tensor, leaf: Tensor) -> bool:
    """Whether the gradient of a weighted sum of the output is there and not zero everywhere."""
    if not output.requires_grad:
        return False
    weights = torch.linspace(1, 2, output.numel(), device=output.device, dtype=output.dtype).view_as(output)
    (gradient,) = torch.autograd.grad(output, leaf, weights, allow_unused=True)
    return gradient is not None and bool(gradient.any())
