"""The three averages, their order, their cost, and their independence of the chunking."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.losses import cross_entropy
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

AVERAGES = ("loss", "logits", "probs")


def small_net(double=False):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 16), nn.Tanh(), nn.Linear(16, 4))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return Classifier(net.double() if double else net, input_size=(6, 6))


def batch(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 6, 6, generator=generator, dtype=dtype)
    ids = torch.arange(count) * 7
    draws = Draws(seed=9, phase=Phase.ATTACK, images=ids, queries=torch.full_like(ids, 40))
    return images, torch.arange(count) % 4, draws


def one_by_one(defended, images, goal, draws, samples, average):
    """The definition, with no batching at all: every image alone, every draw alone, autograd once."""
    gradients = []
    for row in range(len(images)):
        leaf = images[row : row + 1].clone().requires_grad_()
        own = [replace(draws[slice(row, row + 1)], queries=draws.queries[row : row + 1] + j) for j in range(samples)]
        logits = torch.cat([defended.logits(leaf, stream) for stream in own])
        one = goal[slice(row, row + 1)]
        if average == "loss":
            value = torch.stack([one.objective(line[None], cross_entropy) for line in logits]).mean()
        elif average == "logits":
            value = one.objective(logits.mean(0, keepdim=True), cross_entropy).sum()
        else:
            value = one.objective(logits.softmax(1).mean(0, keepdim=True).log(), cross_entropy).sum()
        gradients.append(torch.autograd.grad(value, leaf)[0])
    return torch.cat(gradients)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_equals_the_definition(average, targeted, chunk):
    defended = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    images, labels, draws = batch(5)
    goal = Targeted(labels) if targeted else Untargeted(labels)
    eot = EOT(samples=6, average=average, chunk=chunk)
    estimate = eot.estimate(defended, images, goal, cross_entropy, draws)
    expected = one_by_one(defended, images, goal, draws, 6, average)
    torch.testing.assert_close(estimate.gradient, expected, rtol=1e-9, atol=1e-12)
    assert estimate.forwards == (6 if average == "loss" or chunk == 100 else 12)


def test_averages_differ_on_a_stochastic_classifier():
    """So that the test above can tell them apart."""
    defended = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    images, labels, draws = batch(5)
    gradients = [
        EOT(samples=6, average=average).estimate(defended, images, Untargeted(labels), cross_entropy, draws).gradient
        for average in AVERAGES
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (gradients[i] - gradients[j]).norm() > 1e-2 * gradients[i].norm()


@pytest.mark.parametrize("average", AVERAGES)
def test_averages_agree_on_a_deterministic_classifier(average):
    defended = DefendedClassifier(small_net(double=True), Identity())
    images, labels, draws = batch(5)
    goal = Untargeted(labels)
    plain = EOT().estimate(defended, images, goal, cross_entropy, draws)
    estimate = EOT(samples=3, average=average).estimate(defended, images, goal, cross_entropy, draws)
    torch.testing.assert_close(estimate.gradient, plain.gradient)
    torch.testing.assert_close(estimate.objective, plain.objective)


def test_row_i_of_a_batch_is_the_image_alone():
    defended = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    images, labels, draws = batch(5)
    eot = EOT(samples=3, chunk=4)
    whole = eot.estimate(defended, images, Untargeted(labels), cross_entropy, draws).gradient
    rows = torch.tensor([3])
    alone = eot.estimate(defended, images[rows], Untargeted(labels[rows]), cross_entropy, draws[rows]).gradient
    torch.testing.assert_close(alone, whole[rows], rtol=1e-9, atol=1e-12)


def test_model_calls_are_counted():
    """Images through the classifier are those counted per image, plus the padding of the last chunk."""
    defended = DefendedClassifier(small_net(), Smoothing(sigma=0.3))
    images, labels, draws = batch(5, torch.float32)
    before = (defended.classifier.forwards, defended.classifier.gradients)
    estimate = EOT(samples=4, chunk=10).estimate(defended, images, Untargeted(labels), cross_entropy, draws)
    assert estimate.forwards == 4
    assert defended.classifier.forwards - before[0] == 20
    assert defended.classifier.gradients - before[1] == 20


def test_retreats_when_memory_runs_out():
    """A classifier that cannot take more than three rows at once: the same gradient in smaller chunks."""

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net(double=True).network.module

        def forward(self, images):
            if len(images) > 3:
                raise torch.OutOfMemoryError("more than three rows")
            return self.net(images)

    images, labels, draws = batch(5)
    goal = Untargeted(labels)
    narrow = DefendedClassifier(Classifier(Narrow(), input_size=(6, 6)), Smoothing(sigma=0.3))
    wide = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    estimate = EOT(samples=4, chunk=16).estimate(narrow, images, goal, cross_entropy, draws)
    assert estimate.chunk == 2
    expected = EOT(samples=4, chunk=16).estimate(wide, images, goal, cross_entropy, draws)
    torch.testing.assert_close(estimate.gradient, expected.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("average", AVERAGES)
def test_common_random_numbers(average):
    """Every estimate takes the image's first m draws, wherever its streams have come to."""
    defended = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    images, labels, draws = batch(5)
    first = replace(draws, queries=torch.zeros_like(draws.queries))
    goal = Untargeted(labels)
    common, fresh = (EOT(samples=3, average=average, common=common) for common in (True, False))
    here = common.estimate(defended, images, goal, cross_entropy, draws).gradient
    assert torch.equal(here, common.estimate(defended, images, goal, cross_entropy, first).gradient)
    assert torch.equal(here, fresh.estimate(defended, images, goal, cross_entropy, first).gradient)
    assert not torch.allclose(here, fresh.estimate(defended, images, goal, cross_entropy, draws).gradient)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, for as long as they live."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self.count(tensor.untyped_storage())
        return out

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()

        def gone():
            self.known.discard(key)
            self.live -= size

        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, gone)


def peak_bytes(average, samples, chunk):
    layers = nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)
    defended = DefendedClassifier(Classifier(nn.Sequential(*layers), input_size=(32, 32)), Smoothing(sigma=0.3))
    ids = torch.arange(4)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    eot = EOT(samples=samples, average=average, chunk=chunk)
    with LiveBytes() as memory:
        eot.estimate(defended, torch.rand(4, 3, 32, 32), Untargeted(ids), cross_entropy, draws)
    return memory.peak


@pytest.mark.parametrize("average", AVERAGES)
def test_memory_does_not_grow_with_the_number_of_draws(average):
    """Flat to 1 % (issue: 10 %) at a fixed chunk; a chunk that grows with m is seen."""
    peaks = [peak_bytes(average, samples, chunk=4) for samples in (1, 8, 64, 256)]
    assert max(peaks) <= 1.01 * min(peaks)
    assert peak_bytes(average, 8, chunk=32) > 4 * peaks[1]


def test_works_where_gradients_are_switched_off():
    defended = DefendedClassifier(small_net(double=True), Smoothing(sigma=0.3))
    images, labels, draws = batch(2)
    expected = EOT(samples=2).estimate(defended, images, Untargeted(labels), cross_entropy, draws).gradient
    with torch.no_grad():
        gradient = EOT(samples=2).estimate(defended, images, Untargeted(labels), cross_entropy, draws).gradient
    assert torch.equal(gradient, expected)


class _Severed(Identity):
    """A defense whose output does not hang on its input."""

    def apply(self, images, params):
        return images.detach()


class Detached(nn.Module):
    """A classifier that detaches what it is given."""

    def forward(self, images):
        return images.detach().flatten(1)[:, :4]


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("chunk", [2, 100])
def test_an_output_without_a_graph_is_named(average, chunk):
    images, labels, draws = batch(2)
    eot = EOT(samples=3, average=average, chunk=chunk)
    severed = DefendedClassifier(small_net(double=True), _Severed())
    with pytest.raises(InputError, match=r"no gradient reaches the image through severed\(\).*backward='identity'"):
        eot.estimate(severed, images, Untargeted(labels), cross_entropy, draws)
    detached = DefendedClassifier(Classifier(Detached(), input_size=(6, 6)), Identity())
    with pytest.raises(InputError, match="no gradient reaches the image through the classifier Detached"):
        eot.estimate(detached, images, Untargeted(labels), cross_entropy, draws)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"average": "mean"}, "average must be 'loss', 'logits' or 'probs', got 'mean'"),
        ({"chunk": 0}, "chunk must be at least 1, or 'auto', got 0"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        EOT(**settings)
