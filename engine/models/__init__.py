"""Classifiers by name: ours, torchvision's, published checkpoints, and a user's own."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models.cifar_resnet import cifar_resnet20, cifar_resnet56
from cannonade.models.cohen import cohen_resnet50
from cannonade.models.efficientnet_lite import efficientnet_lite0
from cannonade.models.imported import call_function
from cannonade.models.pretrained import Pretrained, keep_classes
from cannonade.models.torchvision_models import torchvision_classifier, torchvision_names

_OWN: dict[str, Callable[[Path | None, int | None], Pretrained]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet56": cifar_resnet56,
    "cohen_resnet50": cohen_resnet50,
}


def available_models() -> tuple[str, ...]:
    """Every name that `load_model` knows, besides `package.module:function`: ours first, then torchvision's."""
    return (*_OWN, *torchvision_names())


def load_pretrained(name: str, *, weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A model by name as an ordinary trainable module, with the preprocessing it expects: what fine-tuning starts from.

    Args:
        name: one of `available_models()`, or `package.module:function`, called without arguments.
        weights: a safetensors file, or what `torch.save` wrote (read with weights_only=True).
        num_classes: logits of the model, where they are not those it was published with.

    Raises:
        InputError: the name is unknown, or the weights are missing, damaged or of another shape.
    """
    if name in _OWN:
        return _OWN[name](weights, num_classes)
    if ":" in name:
        return Pretrained(module=call_function(name, weights))
    if name in torchvision_names():
        return torchvision_classifier(name, weights, num_classes)
    near = get_close_matches(name, available_models(), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    raise InputError(
        f"no model is named {name!r}{hint} A model is one of {', '.join(_OWN)}, a torchvision classifier, or "
        "package.module:function for one of your own"
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
            autocast=autocast,
            compile=compile,
            name=name,
        )
    except IndexError as error:
        raise InputError(f"classes must be among those of {name}, got {list(classes or ())}: {error}") from error
    return classifier.to(device)
