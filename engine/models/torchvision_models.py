"""Any torchvision classifier by its name, with torchvision's own weights and preprocessing or with a file's weights."""

from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from cannonade.errors import InputError
from cannonade.models.pretrained import Pretrained
from cannonade.models.weights import load_weights, read_state_dict

# These two undo ImageNet's normalisation inside the module whenever they carry published weights.
_FILE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


@cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's image classifiers."""
    import torchvision.models

    return tuple(torchvision.models.list_models(module=torchvision.models))


def torchvision_classifier(name: str, weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A torchvision classifier with the default weights' preprocessing.

    Args:
        name: one of `torchvision_names()`.
        weights: a file of weights; None downloads torchvision's default ones, or takes them from torch.hub's cache.
        num_classes: of the file; torchvision's own weights have 1000.

    Raises:
        InputError: the download failed, the weights do not fit, or another number of classes is asked of the defaults.
    """
    from torchvision.models import get_model_weights

    default = get_model_weights(name).DEFAULT
    names = default.meta["categories"]
    if weights is None:
        if num_classes not in (None, len(names)):
            raise InputError(
                f"torchvision's {name} has {len(names)} classes, got num_classes={num_classes}: pass weights=FILE too"
            )
        return _source(name, _download(name, default), len(names))
    classes = len(names) if num_classes is None else num_classes
    source = untrained_torchvision(name, classes, **_FILE_ARGUMENTS.get(name, {}))
    load_weights(source.module, read_state_dict(weights), str(weights))
    return source


def untrained_torchvision(name: str, num_classes: int, **settings: Any) -> Pretrained:
    """The same with random weights, and further settings of its constructor."""
    from torchvision.models import get_model

    return _source(name, get_model(name, weights=None, num_classes=num_classes, **settings), num_classes)


def _source(name: str, module: nn.Module, num_classes: int) -> Pretrained:
    """A module with the preprocessing of its default weights."""
    from torchvision.models import get_model_weights

    default = get_model_weights(name).DEFAULT
    preset, names = default.transforms(), default.meta["categories"]
    side = preset.crop_size[0]
    return Pretrained(
        module=module,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        input_size=(side, side),
        class_names=names if num_classes == len(names) else None,
    )


def _download(name: str, default: Any) -> nn.Module:
    from torchvision.models import get_model

    try:
        module: nn.Module = get_model(name, weights=default)
    except (OSError, RuntimeError) as error:  # no route, refused, cut short, or the hash does not match
        raise InputError(
            f"the weights of {name} could not be fetched from {default.url} ({error}); "
            "fetch that file elsewhere and pass weights=FILE (--weights FILE)"
        ) from error
    return module
