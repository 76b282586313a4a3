"""The published ResNet-18 of k-winners-take-all, in a synthetic file of its format, against the same network by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cannonade.defended import DefendedClassifier
from cannonade.defenses.kwta import KWTA
from cannonade.errors import InputError
from cannonade.models import load_model, untrained


class Winners(nn.Module):
    """The largest tenth of an image's values, over all channels."""

    def forward(self, values):
        least = values.flatten(1).sort(1, descending=True).values[:, int(0.1 * values[0].numel()) - 1]
        return values * (values >= least[:, None, None, None])


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.sparse1, self.sparse2 = Winners(), Winners()
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, images):
        hidden = self.sparse1(self.bn1(self.conv1(images)))
        return self.sparse2(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class Published(nn.Module):
    """As the checkpoint names its parts: the stem keeps its ReLU, the blocks have winners."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.linear = nn.Linear(512, 10)

    def forward(self, images):
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.linear(functional.avg_pool2d(hidden, 4).flatten(1))


def test_the_published_network(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        published = Published().eval()
    for part in published.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
    torch.save(published.state_dict(), tmp_path / "kwta_spresnet18_0.1_cifar_adv.pth")
    classifier = load_model("xiao_resnet18", weights=tmp_path / "kwta_spresnet18_0.1_cifar_adv.pth")
    assert (classifier.num_classes, classifier.input_size) == (10, (32, 32))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = published(images)
        found = DefendedClassifier(classifier, KWTA(fraction=0.1, first=1))(images)
        all_winners = DefendedClassifier(classifier, KWTA(fraction=0.1))(images)
    scale = float(expected.abs().max())
    # Rounding may swap a winner that is next to equal to a loser.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * scale)
    assert float((all_winners - expected).abs().max()) > 1e-2 * scale


def test_it_can_be_trained_from_scratch_and_names_its_weights():
    source = untrained("xiao_resnet18", 4)
    assert (source.mean, source.std, source.class_names) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None)
    with pytest.raises(InputError, match="xiao_resnet18 must be given weights=FILE"):
        load_model("xiao_resnet18")
