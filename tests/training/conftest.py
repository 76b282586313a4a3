"""A training small enough to be run dozens of times."""

import numpy as np
import pytest
from torch import nn

from cannonade.data.sources import Item, Source
from cannonade.data.views import Augmentation
from cannonade.models.card import Card
from cannonade.training.recipe import Recipe
from cannonade.training.start import Start, seeded
from cannonade.training.task import Task
from cannonade.transforms.noise import Smoothing

SIDE = 12


class Small(nn.Module):
    """Batch norm, dropout and a head: all that has a state or draws."""

    def __init__(self, classes=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8 * 9, classes)

    def forward(self, images):
        return self.head(self.dropout(self.body(images)))


def toy(count, seed):
    """Images whose brightest third tells their class."""
    pixels = np.random.default_rng(seed).random((count, SIDE, SIDE, 3), dtype=np.float32) * 0.4 + 0.2
    labels = np.arange(count) % 3
    for image, label in zip(pixels, labels, strict=True):
        image[4 * label : 4 * label + 4] += 0.25
    return pixels, labels


def toy_source(count, seed):
    pixels, labels = toy(count, seed)
    return Source([Item(index, int(label), f"toy[{index}]") for index, label in enumerate(labels)], pixels)


@pytest.fixture(scope="session")
def arrays():
    """Makes toy images and labels: arrays(count, seed)."""
    return toy


@pytest.fixture(scope="session")
def make_task():
    """Makes a training: make_task(module=…, recipe settings …)."""

    def make(module=None, defense=None, train=50, **settings):
        defaults = {
            "epochs": 2,
            "batch": 8,
            "learning_rate": 3e-3,
            "votes": 3,
            "augmentation": Augmentation(scale=(0.8, 1.0)),
        }
        with seeded(0):
            module = Small() if module is None else module()
        card = Card(
            model="toy", classes=(5, 7, 9), mean=(0.5,) * 3, std=(0.25,) * 3, input_size=(SIDE, SIDE), defense="toy"
        )
        return Task(
            start=Start(module, card, continued=False),
            initial="scratch",
            defense=defense or Smoothing(sigma=0.1),
            train=toy_source(train, 0),
            validation=toy_source(31, 1),
            recipe=Recipe(**(defaults | settings)),
            workers=0,
        )

    return make
