"""Our attacks as adv_lib's, which are functions: `attack(model, inputs, labels, targeted=False)`."""

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from cannonade.attacks.attack import Attack
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.integrations.door import as_defended, framework


@dataclass(frozen=True)
class AdvLibAttack:
    """One of our attacks, for `adv_lib.utils.attack_utils.run_attack` and whoever else calls adv_lib's.

    Attributes:
        attack: our attack.
    """

    attack: Attack

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
        """Attack a batch.

        Args:
            model: what is attacked; see `door.as_defended`.
            inputs: [N, 3, H, W] in [0, 1].
            labels: [N] int64, the true labels, or the targets.
            targeted: which of the two.

        Returns:
            [N, 3, H, W], the adversarial images.
        """
        goal = Targeted(labels) if targeted else Untargeted(labels)
        return self.attack(as_defended(model), inputs, goal).images


def import_adv_lib(module: str) -> Any:
    """A module of adv_lib, which imports the plotting server visdom at once: an empty one where it is not installed.

    Args:
        module: such as "adv_lib.attacks".
    """
    if "visdom" not in sys.modules and find_spec("visdom") is None:
        stand_in = ModuleType("visdom")
        stand_in.__spec__ = ModuleSpec("visdom", None)
        sys.modules["visdom"] = stand_in
    return framework(module, "adv-lib", "0.2.8", "0.2.8")
