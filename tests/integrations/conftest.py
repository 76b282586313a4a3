"""A small classifier behind strong noise, which every framework attacks and our attacks are called on."""

import pytest
import torch
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.transforms.noise import Smoothing
from cannonade.voting import majority_vote


@pytest.fixture(scope="session")
def net():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 24), nn.Tanh(), nn.Linear(24, 5))
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    first, last = module[1], module[3]
    first.bias.data = -first.weight.data.sum(1) / 2  # around grey, so that all classes occur
    last.bias.data.zero_()
    return module.eval()


@pytest.fixture
def defended(net):
    return DefendedClassifier(Classifier(net, input_size=(8, 8)), Smoothing(sigma=0.2), seed=1)


@pytest.fixture(scope="session")
def images():
    return 0.2 + 0.6 * torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels(defended, images):
    """What the vote says, so that all images are right and an attack has to change them."""
    return majority_vote(defended, images, 50, phase=Phase.BENIGN_VOTE).labels


@pytest.fixture(scope="session")
def attack():
    return PGD(eps=0.07, steps=5, step_size=0.025, gradient=EOT(samples=4))
