"""Checkpoints of randomised smoothing, in a synthetic file of the published format."""

import pytest
import torch
from torchvision.models import resnet50

from cannonade.errors import InputError
from cannonade.models import load_model

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet50(weights=None).eval()


def checkpoint(module, prefix="1.module.", arch="resnet50", **extra):
    state = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    return {"epoch": 90, "arch": arch, "state_dict": state | extra, "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize(
    ("prefix", "extra"), [("1.module.", {}), ("module.1.", {"module.0.means": MEAN, "module.0.sds": STD})]
)
def test_round_trip(module, tmp_path, prefix, extra):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(checkpoint(module, prefix, **extra), path)
    classifier = load_model("cohen_resnet50", weights=path)
    assert (classifier.num_classes, classifier.input_size) == (1000, (224, 224))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator)
    images = images + 0.5 * torch.randn(images.shape, generator=generator)  # leaves [0, 1] and is not clipped
    with torch.no_grad():
        expected = module((images - MEAN[:, None, None]) / STD[:, None, None])
        actual = classifier(images)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_refusals(module, tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    with pytest.raises(InputError, match=r"cohen_resnet50 must be given weights=checkpoint\.pth\.tar"):
        load_model("cohen_resnet50")
    torch.save({"arch": "cifar_resnet110", "state_dict": {"1.a": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match="must hold arch 'resnet50' and a state_dict, got arch 'cifar_resnet110'"):
        load_model("cohen_resnet50", weights=path)
    torch.save({"1.module.fc.bias": torch.zeros(1000)}, path)
    with pytest.raises(InputError, match=r"got arch None and keys 1\.module\.fc\.bias"):
        load_model("cohen_resnet50", weights=path)
    torch.save({"arch": "resnet50", "state_dict": {"1.module.fc.bias": torch.zeros(1000)}}, path)
    with pytest.raises(InputError, match=r"missing: conv1\.weight, bn1\.weight.*more"):
        load_model("cohen_resnet50", weights=path)
