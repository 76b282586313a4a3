"""The ResNets of CIFAR-10 (He et al. 2016, section 4.2), with option-A shortcuts, named as in the published weights."""

from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from cannonade.errors import InputError
from cannonade.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, Pretrained
from cannonade.models.weights import load_weights, read_state_dict

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights: every second pixel, padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.widening = (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images
        if self.stride != 1:
            shortcut = pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widening, self.widening))
        hidden = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(hidden)) + shortcut)


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers: three stages of n blocks, 16, 32 and 64 channels wide.

    Args:
        depth: 20 or 56 for the published weights; any 6n + 2.
        num_classes: number of logits.
    """

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to logits [N, num_classes]."""
        hidden = relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean((2, 3)))
        return logits


def cifar_resnet(depth: int, weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A CIFAR-10 ResNet with the weights of a file, such as those of github.com/akamaster/pytorch_resnet_cifar10.

    Args:
        depth: 20 or 56.
        weights: the file.
        num_classes: 10 unless the file says otherwise.

    Raises:
        InputError: there is no file, or it does not fit.
    """
    if weights is None:
        raise InputError(
            f"cifar_resnet{depth} must be given weights=FILE (--weights FILE); trained ones are in the folder "
            "pretrained_models of github.com/akamaster/pytorch_resnet_cifar10"
        )
    source = untrained_cifar_resnet(depth, 10 if num_classes is None else num_classes)
    load_weights(source.module, read_state_dict(weights), str(weights))
    return source


def untrained_cifar_resnet(depth: int, num_classes: int) -> Pretrained:
    """The same with random weights."""
    return Pretrained(
        module=CifarResNet(depth, num_classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=(32, 32),
        class_names=CIFAR10_NAMES if num_classes == 10 else None,
    )


cifar_resnet20 = partial(cifar_resnet, 20)
cifar_resnet56 = partial(cifar_resnet, 56)
