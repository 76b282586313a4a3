"""The ResNet-50 checkpoints of randomised smoothing (Cohen, Rosenfeld and Kolter, ICML 2019; locuslab/smoothing)."""

from pathlib import Path

from cannonade.errors import InputError
from cannonade.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, Pretrained, imagenet_names
from cannonade.models.weights import load_weights, read_checkpoint, unwrap


def cohen_resnet50(weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A ResNet-50 trained under Gaussian noise.

    The checkpoint holds `arch` and `state_dict` of `Sequential(NormalizeLayer, DataParallel(resnet50))`: keys start
    with `1.module.`, and the normalisation, ImageNet's, is not among them. It was trained on noise that leaves [0, 1],
    so the smoothing before it must not clip.

    Args:
        weights: `checkpoint.pth.tar`.
        num_classes: 1000 unless the checkpoint says otherwise.

    Raises:
        InputError: there is no file, it is another architecture's, or it does not fit.
    """
    if weights is None:
        raise InputError(
            "cohen_resnet50 must be given weights=checkpoint.pth.tar (--weights), from the models published with "
            "github.com/locuslab/smoothing"
        )
    checkpoint = read_checkpoint(weights)
    arch = checkpoint.get("arch")
    if arch != "resnet50" or "state_dict" not in checkpoint:
        keys = ", ".join(str(key) for key in list(checkpoint)[:4])
        raise InputError(
            f"a checkpoint of cohen_resnet50 must hold arch 'resnet50' and a state_dict, got arch {arch!r} and keys "
            f"{keys} in {weights}"
        )
    state = unwrap(checkpoint, str(weights))
    # The normalisation's constants are ours already; forks that keep them in the file store them under the first layer.
    inner = {key.removeprefix("1.").removeprefix("module."): value for key, value in state.items() if key[:2] != "0."}

    from torchvision.models import resnet50

    classes = 1000 if num_classes is None else num_classes
    module = resnet50(weights=None, num_classes=classes)
    load_weights(module, inner, str(weights))
    return Pretrained(
        module=module,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=(224, 224),
        class_names=imagenet_names(classes),
    )
