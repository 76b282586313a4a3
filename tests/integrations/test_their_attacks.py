"""Attacks of other frameworks on our defended classifier: they run as their users call them, and break it by our vote."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.integrations.judging import judge
from cannonade.transforms.base import REGISTRY

EPS = 0.07

# foolbox, ART and adv_lib use what others have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def by_torchattacks(defended, images, labels):
    import torchattacks

    return torchattacks.PGD(defended, eps=EPS, alpha=0.025, steps=8)(images, labels)


def by_foolbox(defended, images, labels):
    from cannonade.integrations.foolbox import foolbox, foolbox_model

    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.025, steps=8)
    _, clipped, is_adv = attack(foolbox_model(defended), images, labels, epsilons=[EPS / 7, EPS])
    assert is_adv.shape == (2, len(images))
    return clipped[1]


def by_art(defended, images, labels):
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    from cannonade.integrations.art import art_classifier

    attack = ProjectedGradientDescentPyTorch(
        art_classifier(defended), eps=EPS, eps_step=0.025, max_iter=8, batch_size=64, verbose=False
    )
    return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


def by_autoattack(defended, images, labels):
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(defended, n_iter=10, eps=EPS, device="cpu").perturb(images, labels, best_loss=True)


def by_adv_lib(defended, images, labels):
    from cannonade.integrations.adv_lib import import_adv_lib

    found = import_adv_lib("adv_lib.attacks").pgd_linf(defended, images, labels, ε=EPS, steps=8)
    return found.detach()


def by_secml_torch(defended, images, labels):
    from secmlt.adv.evasion.pgd import PGD
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier

    attack = PGD("linf", EPS, num_steps=8, step_size=0.025, backend="native")
    found = attack(BasePyTorchClassifier(defended), DataLoader(TensorDataset(images, labels), batch_size=64))
    return torch.cat([batch for batch, _ in found])


THEIRS = [by_torchattacks, by_foolbox, by_art, by_autoattack, by_adv_lib, by_secml_torch]


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("samples", [1, 8])
def test_they_attack_our_classifier(theirs, samples, defended, images, labels):
    """With an inner mean too, which is their EOT; the null vote says what the vote alone would change."""
    attacked = DefendedClassifier(defended.classifier, defended.defense, seed=1, samples=samples)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = theirs(attacked, images.clone(), labels.clone())
    judged = judge(defended, found, labels, originals=images, eps=EPS, votes=50)
    null = judge(defended, images, labels, votes=50)
    assert judged.success.float().mean() > null.success.float().mean() + 0.3
    assert attacked.classifier.gradients > 0


def wrapped_by_art(defended):
    from cannonade.integrations.art import art_classifier

    estimator = art_classifier(defended)
    return lambda images: estimator.predict(images.numpy())


def wrapped_by_foolbox(defended):
    from cannonade.integrations.foolbox import foolbox_model

    model = foolbox_model(defended)
    return lambda images: model(images).numpy()


def wrapped_by_secml_torch(defended):
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier

    model = BasePyTorchClassifier(defended)
    return lambda images: model.decision_function(images).numpy()


def wrapped_by_torchattacks(defended):
    import torchattacks

    attack = torchattacks.PGD(defended)
    return lambda images: attack.get_logits(images).numpy()


@pytest.mark.parametrize("wrap", [wrapped_by_art, wrapped_by_foolbox, wrapped_by_secml_torch, wrapped_by_torchattacks])
def test_two_calls_of_a_wrapper_differ(wrap, defended, images):
    predict = wrap(defended)
    with torch.no_grad():
        first, second = predict(images[:4]), predict(images[:4])
    assert first.shape == second.shape == (4, 5)
    assert (first != second).any(axis=1).all()


def art_classifiers(net, defense):
    """A defense inside the model, and as ART's preprocessor before it."""
    from cannonade.integrations.art import DefensePreprocessor, art_classifier

    classifier = Classifier(net, input_size=(8, 8))
    preprocessor = DefensePreprocessor(defense, seed=1, device_type="cpu")
    return art_classifier(DefendedClassifier(classifier, defense, seed=1)), art_classifier(
        classifier, defenses=(preprocessor,)
    )


@pytest.mark.parametrize("place", [0, 1], ids=["model", "preprocessor"])
def test_art_gradients_and_attacks_without_labels(place, net, defended, images, labels):
    """What broke ART's own EoT: N rows in, N rows out, with and without y."""
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent

    estimator = art_classifiers(net, defended.defense)[place]
    x, y = images[:8].numpy(), labels[:8].numpy()
    assert estimator.predict(x).shape == (8, 5)
    assert estimator.loss_gradient(x, np.eye(5, dtype=np.float32)[y]).shape == x.shape
    assert estimator.compute_loss(x, np.eye(5)[y], reduction="none").shape == (8,)
    for targets in (None, y):
        attack = ProjectedGradientDescent(estimator, eps=EPS, eps_step=0.03, max_iter=2, verbose=False)
        assert np.abs(attack.generate(x, targets) - x).max() == pytest.approx(EPS, abs=0.011)
    auto = AutoProjectedGradientDescent(estimator, eps=EPS, eps_step=0.03, max_iter=3, nb_random_init=1, verbose=False)
    found = auto.generate(x, y)
    assert found.shape == x.shape
    assert np.abs(found - x).max() <= EPS + 1e-6


@pytest.mark.filterwarnings(r"ignore:\n With the current backend \(Pytorch\) Gaussian noise:UserWarning")
@pytest.mark.parametrize("place", ["model", "preprocessor"])
def test_art_randomised_smoothing_around_ours(place, net, defended, images, labels):
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    from cannonade.integrations.art import DefensePreprocessor

    preprocessor = DefensePreprocessor(defended.defense, seed=1, device_type="cpu")
    smoothed = PyTorchRandomizedSmoothing(
        model=defended if place == "model" else net,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, 8, 8),
        nb_classes=5,
        clip_values=(0, 1),
        preprocessing_defences=None if place == "model" else preprocessor,
        device_type="cpu",
        sample_size=60,
        scale=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        counts = smoothed.predict(images[:8].numpy(), is_abstain=False)
    assert counts.shape == (8, 5)
    assert (torch.from_numpy(counts).argmax(1) == labels[:8]).sum() >= 6


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_transform_is_an_art_preprocessor(name):
    from cannonade.integrations.art import DefensePreprocessor

    transform = REGISTRY[name](**REGISTRY[name].example)
    photos = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0)).numpy()
    preprocessor = DefensePreprocessor(transform, seed=4, device_type="cpu")
    found, _ = preprocessor(photos)
    assert len(found) == 2
    assert np.array_equal(found, preprocessor.estimate_forward(torch.from_numpy(photos)).numpy())
    gradient = preprocessor.estimate_gradient(photos, np.ones_like(found))
    assert gradient.shape == photos.shape
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["rotation(degrees=90)", "bart(k=3)", "smoothing(sigma=0.2)", "jpeg"])
def test_a_defense_is_an_art_preprocessor(name, net):
    from cannonade.integrations.art import DefensePreprocessor, art_classifier

    photos = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)).numpy()
    preprocessor = DefensePreprocessor(build_defense(name), seed=4, device_type="cpu")
    first, y = preprocessor(photos, np.arange(2))
    assert first.shape == photos.shape
    assert y.tolist() == [0, 1]
    again = preprocessor.estimate_forward(torch.from_numpy(photos))
    assert np.array_equal(again.numpy(), first), "the gradient is of the draws that were predicted with"
    second, _ = pickle.loads(pickle.dumps(preprocessor))(photos)
    assert np.array_equal(second, preprocessor(photos)[0])
    if name != "jpeg":
        assert not np.array_equal(second, first)
    leaf = torch.from_numpy(photos).requires_grad_()
    seed = np.ones_like(photos)
    preprocessor.estimate_forward(leaf).backward(torch.from_numpy(seed))
    assert np.array_equal(preprocessor.estimate_gradient(photos, seed), leaf.grad.numpy())
    pooled = torch.nn.Sequential(torch.nn.AvgPool2d(5), copy.deepcopy(net))
    estimator = art_classifier(Classifier(pooled, input_size=(40, 40)), defenses=(preprocessor,))
    gradient = estimator.loss_gradient(photos, np.eye(5, dtype=np.float32)[:2])
    assert gradient.shape == photos.shape
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    "name", ["bart(k=3)", "rotation(degrees=90)", "total_variance_minimisation", "smoothing(sigma=0.2)"]
)
def test_autoattack_sees_no_gradients_in_forward(name, net):
    """Its check traces for functions named grad, backward and _make_grads."""
    from pyautoattack import checks

    pooled = torch.nn.Sequential(torch.nn.AvgPool2d(5), copy.deepcopy(net))
    classifier = Classifier(pooled, input_size=(40, 40))
    defended = DefendedClassifier(classifier, build_defense(name), samples=2, chunk=2, checkpoint=True)
    for called in checks.funcs:
        checks.funcs[called] = 0
    tracer = sys.gettrace()
    try:
        checks.check_dynamic(defended, torch.rand(3, 3, 40, 40))
    finally:
        sys.settrace(tracer)
    assert not any(checks.funcs.values())


def test_autoattack_counts_luck_that_the_vote_does_not(defended, images, labels):
    from pyautoattack import AutoAttack

    with torch.random.fork_rng():
        adversary = AutoAttack(defended, eps=0.02, seed=0, version="custom", attacks=["apgd-ce"])
        adversary.apgd.n_iter, adversary.apgd.eot_iter = 5, 2
        found, said = adversary.run_standard_evaluation(images, labels, batch_size=64)
    judged = judge(defended, found, labels, votes=100, originals=images, eps=0.02)
    broken = said != labels
    assert int((broken & ~judged.success).sum()) >= 4
    assert judged.success.sum() < broken.sum()
