"""The ResNet-18 of k-winners-take-all on CIFAR-10 (Xiao et al., ICLR 2020), which Tramèr et al. (NeurIPS 2020) attacked."""

import re
from pathlib import Path

from cannonade.errors import InputError
from cannonade.models.cifar_resnet import CIFAR10_NAMES
from cannonade.models.pretrained import Pretrained
from cannonade.models.small_resnet import Resnet18Small
from cannonade.models.weights import load_weights, read_state_dict


def xiao_resnet18(weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """ResNet-18 for 32×32 pixels that are not normalised, with published weights or those of `finetune --scratch`.

    The published state dict, such as `kwta_spresnet18_0.1_cifar_adv.pth`, calls its stages layer1 to layer4. The winners are
    no part of the network: it is to be run with the defense kwta(fraction=γ, first=1).

    Args:
        weights: the file.
        num_classes: 10 unless the file says otherwise.

    Raises:
        InputError: there is no file, or it does not fit.
    """
    if weights is None:
        raise InputError(
            "xiao_resnet18 must be given weights=FILE (--weights FILE): those that 01_kwta of "
            "github.com/wielandbrendel/adaptive_attacks_paper loads, or what `cannonade finetune --scratch` makes"
        )
    state = {
        re.sub(r"^layer([1-4])", lambda found: f"stages.{int(found[1]) - 1}", key): value
        for key, value in read_state_dict(weights).items()
    }
    source = untrained_xiao_resnet18(10 if num_classes is None else num_classes)
    load_weights(source.module, state, str(weights))
    return source


def untrained_xiao_resnet18(num_classes: int) -> Pretrained:
    """The same with random weights."""
    return Pretrained(
        module=Resnet18Small().network(num_classes),
        input_size=(32, 32),
        class_names=CIFAR10_NAMES if num_classes == 10 else None,
    )
