"""The CIFAR-10 ResNets: their published weights fit, and classify."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cannonade.errors import InputError
from cannonade.models import load_model
from cannonade.models.cifar_resnet import CIFAR10_NAMES, CifarResNet


@pytest.fixture(scope="module")
def test_images(shared_data):
    """Fifty of each class of the JPEG-recompressed CIFAR-10 test set: [500, 3, 32, 32] in [0, 1], and [500]."""
    arrays, labels = [], []
    with zipfile.ZipFile(shared_data / "cifar10_jpeg_test.zip") as archive:
        for label, name in enumerate(CIFAR10_NAMES):
            files = sorted(file for file in archive.namelist() if file.startswith(f"test/{name}/"))[:50]
            for file in files:
                with archive.open(file) as stream:
                    arrays.append(np.asarray(Image.open(stream).convert("RGB")))
                labels.append(label)
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)


@pytest.mark.parametrize(
    ("name", "file", "accuracy"),
    [
        ("cifar_resnet20", "resnet20-12fca82f.th", 0.810),
        ("cifar_resnet20", "resnet20-jpeg-finetuned.pt", 0.867),
    ],
)
def test_accuracy_on_recompressed_images(name, file, accuracy, shared_data, test_images):
    """Four standard deviations of 500 images about the accuracy on all 10,000: false alarm 6e-5."""
    images, labels = test_images
    classifier = load_model(name, weights=shared_data / "cifar10_resnet" / file)
    with torch.no_grad():
        share = (classifier(images).argmax(1) == labels).float().mean()
    assert abs(float(share) - accuracy) < 4 * (accuracy * (1 - accuracy) / 500) ** 0.5


def test_the_deeper_one_fits_its_weights(shared_data, test_images):
    classifier = load_model("cifar_resnet56", weights=shared_data / "cifar10_resnet" / "resnet56-4bfd9763.th")
    assert (classifier.num_classes, classifier.input_size, classifier.folded) == (10, (32, 32), 55)
    assert classifier.class_names == CIFAR10_NAMES
    images, labels = test_images
    with torch.no_grad():
        assert (classifier(images[::5]).argmax(1) == labels[::5]).float().mean() > 0.6


def test_shortcuts_carry_no_weights():
    count = sum(parameter.numel() for parameter in CifarResNet(20).parameters())
    assert count == 269_722  # He et al. 2016, table 6: 0.27 M


def test_other_classes(tmp_path):
    torch.save(CifarResNet(20, 4).state_dict(), tmp_path / "four.pt")
    classifier = load_model("cifar_resnet20", weights=tmp_path / "four.pt", num_classes=4)
    assert (classifier.num_classes, classifier.class_names) == (4, None)


def test_refusals(tmp_path):
    with pytest.raises(InputError, match=r"cifar_resnet56 must be given weights=FILE \(--weights FILE\)"):
        load_model("cifar_resnet56")
    torch.save(CifarResNet(20).state_dict(), tmp_path / "shallow.pt")
    with pytest.raises(InputError, match=r"missing: layer1\.3\.conv1\.weight.* and \d+ more"):
        load_model("cifar_resnet56", weights=tmp_path / "shallow.pt")
