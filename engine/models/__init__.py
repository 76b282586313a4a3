"""Classifiers by name: ours, torchvision's, published checkpoints, and a user's own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import torch

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models.card import Card, read_card
from cannonade.models.cifar_resnet import cifar_resnet20, cifar_resnet56, untrained_cifar_resnet
from cannonade.models.cohen import cohen_resnet50
from cannonade.models.efficientnet_lite import efficientnet_lite0, untrained_efficientnet_lite0
from cannonade.models.imported import call_function
from cannonade.models.pretrained import Pretrained, keep_classes
from cannonade.models.small_resnet import SMALL, small_resnet, untrained_small_resnet
from cannonade.models.torchvision_models import torchvision_classifier, torchvision_names, untrained_torchvision
from cannonade.models.weights import load_weights, read_state_dict
from cannonade.models.xiao import untrained_xiao_resnet18, xiao_resnet18

_OWN: dict[str, Callable[[Path | None, int | None], Pretrained]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet56": cifar_resnet56,
    "cohen_resnet50": cohen_resnet50,
    "xiao_resnet18": xiao_resnet18,
}

_UNTRAINED: dict[str, Callable[[int], Pretrained]] = {
    "efficientnet_lite0": untrained_efficientnet_lite0,
    "cifar_resnet20": partial(untrained_cifar_resnet, 20),
    "cifar_resnet56": partial(untrained_cifar_resnet, 56),
    "xiao_resnet18": untrained_xiao_resnet18,
}


def available_models() -> tuple[str, ...]:
    """Every name that `load_model` knows, besides `package.module:function`: ours first, then torchvision's."""
    return (*_OWN, *SMALL, *torchvision_names())


def load_pretrained(name: str, *, weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A model by name as an ordinary trainable module, with the preprocessing it expects: what fine-tuning starts from.

    Args:
        name: one of `available_models()`, or `package.module:function`, called without arguments.
        weights: a safetensors file, or what `torch.save` wrote (read with weights_only=True). A file of
            `cannonade finetune` says itself which classes, input size and normalisation it has.
        num_classes: logits of the model, where they are not those it was published with.

    Raises:
        InputError: the name is unknown, or the weights are missing, damaged or of another shape.
    """
    if weights is not None and (card := read_card(weights)) is not None:
        return _fine_tuned(name, weights, card, num_classes)
    if _base(name) in SMALL:
        return small_resnet(name, weights, num_classes)
    if name in _OWN:
        return _OWN[name](weights, num_classes)
    if ":" in name:
        return Pretrained(module=call_function(name, weights))
    if name in torchvision_names():
        return torchvision_classifier(name, weights, num_classes)
    raise _unknown(name)


def untrained(name: str, num_classes: int) -> Pretrained:
    """A model by name with random weights, drawn from the global generator.

    Args:
        name: as in `load_pretrained`; a function of one's own decides itself about its weights and logits.
        num_classes: number of logits.

    Raises:
        InputError: the name is unknown, or stands for published weights only.
    """
    if _base(name) in SMALL:
        return untrained_small_resnet(name, num_classes)
    if name in _UNTRAINED:
        return _UNTRAINED[name](num_classes)
    if ":" in name:
        return Pretrained(module=call_function(name))
    if name in torchvision_names():
        return untrained_torchvision(name, num_classes)
    if name in _OWN:
        raise InputError(f"{name} stands for published weights; from scratch take its architecture, resnet50")
    raise _unknown(name)


def _base(name: str) -> str:
    return name.partition("(")[0]


def _unknown(name: str) -> InputError:
    near = get_close_matches(name, available_models(), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    return InputError(
        f"no model is named {name!r}{hint} A model is one of {', '.join((*_OWN, *SMALL))}, a torchvision classifier, or "
        "package.module:function for one of your own"
    )


def _fine_tuned(name: str, weights: Path, card: Card, num_classes: int | None) -> Pretrained:
    """The model that a file of fine-tuned weights describes."""
    if _base(name) != _base(card.model):
        raise InputError(f"weights must be of the model asked for, {name}, got {weights} of {card.model}")
    if num_classes not in (None, len(card.classes)):
        raise InputError(f"num_classes is {num_classes}, but {weights} has {len(card.classes)} classes")
    blank = untrained(name if "(" in name else card.model, len(card.classes))
    load_weights(blank.module, read_state_dict(weights), str(weights))
    return replace(
        blank,
        mean=card.mean,
        std=card.std,
        input_size=card.input_size,
        class_names=card.class_names,
        classes=tuple(card.classes),
    )


def load_model(
    name: str,
    *,
    weights: Path | None = None,
    num_classes: int | None = None,
    classes: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    compile: bool = False,
) -> Classifier:
    """A classifier by name, ready for attack.

    Args:
        name: one of `available_models()`, or `package.module:function`; a `Classifier` that the latter returns is used
            as it is.
        weights: a safetensors file, or what `torch.save` wrote (read with weights_only=True).
        num_classes: logits of the model, where they are not those it was published with.
        classes: keep only the logits of these classes, in this order, so that class i of the result is classes[i]; all by
            default.
        device: where it shall run.
        autocast: torch.bfloat16 or torch.float16; None computes in float32.
        compile: torch.compile it.

    Raises:
        InputError: the name is unknown, or the weights are missing, damaged or of another shape.

    Example:
        >>> load_model("efficientnet_lite0").num_classes
        1000
    """
    source = load_pretrained(name, weights=weights, num_classes=num_classes)
    if isinstance(source.module, Classifier):
        if autocast is not None or compile:
            raise InputError(f"{name} makes a Classifier, used as it is: give it autocast and compile there")
        if classes is not None:
            raise InputError(f"{name} makes a Classifier, used as it is: keep some of its classes there")
        if num_classes not in (None, source.module.num_classes):
            raise InputError(
                f"num_classes is {num_classes}, but {name} makes a Classifier of {source.module.num_classes}"
            )
        return source.module.to(device)
    try:
        if classes is not None:
            source = keep_classes(source, classes)
        classifier = Classifier(
            source.module,
            mean=source.mean,
            std=source.std,
            input_size=source.input_size,
            num_classes=num_classes if classes is None else len(classes),
            class_names=source.class_names,
            class_numbers=source.classes,
            autocast=autocast,
            compile=compile,
            name=name,
        )
    except IndexError as error:
        raise InputError(f"classes must be among those of {name}, got {list(classes or ())}: {error}") from error
    return classifier.to(device)
