"""ResNets for small images, which a CPU can train: a 3×3 stem without max-pool, and widths of one's choice."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import relu

from cannonade.errors import InputError
from cannonade.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, Pretrained
from cannonade.models.weights import load_weights, read_state_dict
from cannonade.spec import build, call_text


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut, a 1×1 convolution where the shape changes (He et al. 2016, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class SmallResNet(nn.Module):
    """A 3×3 stem and four stages, each twice as wide as the one before and, but for the first, of half its side.

    Args:
        width: channels of the first stage.
        blocks: of every stage.
        stride: of the stem.
        num_classes: number of logits.
    """

    def __init__(self, width: int, blocks: int, stride: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width << stage for stage in range(4)]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(inputs, outputs, 1 if outputs == width else 2),
                    *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)),
                )
                for inputs, outputs in zip([width, *widths], widths, strict=False)
            )
        )
        self.linear = nn.Linear(widths[-1], num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to logits [N, num_classes]."""
        hidden = self.stages(relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.linear(hidden.mean((2, 3)))
        return logits


@dataclass(frozen=True, kw_only=True)
class Resnet18Small:
    """ResNet-18 with a 3×3 stem of stride 1 and no max-pool.

    Attributes:
        width: channels of the first stage; 64 is ResNet-18's.
    """

    width: int = 64

    def network(self, num_classes: int) -> SmallResNet:
        """The network with random weights."""
        return SmallResNet(self.width, 2, 1, num_classes)


@dataclass(frozen=True, kw_only=True)
class ResnetTiny:
    """The same with a stem of stride 2: a quarter of the work, or less with fewer blocks.

    Attributes:
        width: channels of the first stage.
        blocks: of every stage.
    """

    width: int = 32
    blocks: int = 2

    def network(self, num_classes: int) -> SmallResNet:
        """The network with random weights."""
        return SmallResNet(self.width, self.blocks, 2, num_classes)


SMALL: dict[str, type[Resnet18Small | ResnetTiny]] = {"resnet18_small": Resnet18Small, "resnet_tiny": ResnetTiny}


def untrained_small_resnet(text: str, num_classes: int) -> Pretrained:
    """A small ResNet with random weights.

    Args:
        text: its name, or its call, such as "resnet18_small(width=32)".
        num_classes: number of logits.

    Raises:
        InputError: the call has other arguments than it may have.
    """
    kind = build(text, SMALL, "model")
    for name, value in vars(kind).items():
        if value < 1:
            raise InputError(f"{name} of {text} must be at least 1, got {value}")
    return Pretrained(module=kind.network(num_classes), mean=IMAGENET_MEAN, std=IMAGENET_STD, input_size=(64, 64))


def small_resnet(text: str, weights: Path | None = None, num_classes: int | None = None) -> Pretrained:
    """A small ResNet with the weights of a file; what its name leaves open is read off their shapes.

    Raises:
        InputError: there is no file, or it does not fit.
    """
    if weights is None:
        raise InputError(
            f"{text} must be given weights=FILE (--weights FILE): `cannonade finetune --scratch` makes some"
        )
    state = read_state_dict(weights)
    if text in SMALL and "conv1.weight" in state:
        blocks = {key.split(".")[2] for key in state if key.startswith("stages.0.")}
        found = {"width": len(state["conv1.weight"]), "blocks": len(blocks)}
        fields = SMALL[text].__dataclass_fields__
        text = call_text(text, SMALL[text](**{name: found[name] for name in fields}))
    if num_classes is None and "linear.bias" in state:
        num_classes = len(state["linear.bias"])
    source = untrained_small_resnet(text, 10 if num_classes is None else num_classes)
    load_weights(source.module, state, str(weights))
    return source
