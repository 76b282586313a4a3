"""Our attacks as other frameworks' own: translation only, so their images are those of a direct call, bit for bit."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Targeted, Untargeted
from cannonade.attacks.targets import choose_targets, random_targets
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.errors import InputError
from cannonade.integrations.adv_lib import AdvLibAttack
from cannonade.transforms.identity import Identity
from cannonade.voting import majority_vote

# foolbox, ART and adv_lib use what others have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def direct(attack, defended, images, goal):
    return attack(defended, images, goal).images


def undefended(net, **settings):
    return DefendedClassifier(Classifier(net, **settings), Identity())


@pytest.fixture
def targets(labels):
    return (labels + 1) % 5


class TestTorchattacks:
    def test_is_called_as_theirs(self, defended, images, labels, attack):
        import torchattacks

        from cannonade.integrations.torchattacks import TorchattacksAttack

        atk = TorchattacksAttack(defended, attack)
        assert isinstance(atk, torchattacks.attack.Attack)
        assert torch.equal(atk(images, labels), direct(attack, defended, images, labels))
        assert torch.equal(atk(images, labels), atk(images, labels))
        with pytest.raises(InputError, match="labels must be given"):
            atk(images)

    def test_targeted_modes(self, defended, images, labels, targets, attack):
        from cannonade.integrations.torchattacks import TorchattacksAttack

        atk = TorchattacksAttack(defended, attack)
        ids = torch.arange(len(images))
        atk.set_mode_targeted_by_label(quiet=True)
        assert torch.equal(atk(images, targets), direct(attack, defended, images, Targeted(targets)))
        atk.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % 5, quiet=True)
        assert torch.equal(atk(images, labels), direct(attack, defended, images, Targeted(targets)))
        atk.set_mode_targeted_random(quiet=True)
        drawn = random_targets(labels, 5, defended.seed, ids)
        assert torch.equal(atk(images, labels), direct(attack, defended, images, Targeted(drawn)))
        atk.set_mode_targeted_least_likely(quiet=True)
        least = choose_targets("least_likely", defended, images, labels, ids)
        assert (least != labels).all()
        assert torch.equal(atk(images, labels), direct(attack, defended, images, Targeted(least)))
        atk.set_mode_targeted_least_likely(kth_min=4, quiet=True)
        assert (atk.get_least_likely_label(images, labels) != labels).all()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("builtins.print", lambda *_: None)
            atk.set_mode_default()
        assert torch.equal(atk(images, labels), direct(attack, defended, images, labels))

    def test_normalised_images(self, net, defended, images, labels, attack):
        """As with torchattacks, images come and go normalised, and the module expects them so."""
        from cannonade.integrations.torchattacks import TorchattacksAttack

        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        atk = TorchattacksAttack(net, attack)
        atk.set_normalization_used(mean=MEAN, std=STD)
        found = atk((images - mean) / std, labels) * std + mean
        expected = direct(attack, undefended(net, mean=MEAN, std=STD), images, labels)
        assert (found - images).abs().max() <= attack.eps + 1e-5
        assert ((found - expected).abs() < 1e-4).float().mean() > 0.99
        atk = TorchattacksAttack(defended, attack)
        atk.set_normalization_used(mean=MEAN, std=STD)
        with pytest.raises(InputError, match=r"takes images in \[0, 1\]; give mean and std to Classifier"):
            atk((images - mean) / std, labels)

    def test_in_their_multi_attack_and_save(self, defended, images, labels, attack, tmp_path, capsys):
        import torchattacks

        from cannonade.integrations.torchattacks import TorchattacksAttack

        weak = TorchattacksAttack(defended, replace(attack, steps=1))
        both = torchattacks.MultiAttack([weak, TorchattacksAttack(defended, attack)])
        assert both(images, labels).shape == images.shape
        loader = DataLoader(TensorDataset(images, labels), batch_size=40)
        path = tmp_path / "found.pt"
        TorchattacksAttack(defended, attack).save(loader, save_path=str(path), verbose=False)
        capsys.readouterr()
        assert torch.equal(torch.load(path)["adv_inputs"], direct(attack, defended, images, labels))


class TestFoolbox:
    def test_several_radii_in_one_call(self, defended, images, labels, attack):
        from cannonade.integrations.foolbox import FoolboxAttack, foolbox, foolbox_model

        ours = FoolboxAttack(attack, votes=30)
        criterion = foolbox.criteria.Misclassification(labels)
        raw, clipped, is_adv = ours(foolbox_model(defended), images, criterion, epsilons=[0.0, 0.03, 0.07])
        assert is_adv.shape == (3, 40)
        assert is_adv.dtype == torch.bool
        for eps, one, same, said in zip((0.0, 0.03, 0.07), raw, clipped, is_adv, strict=True):
            expected = direct(replace(attack, eps=eps), defended, images, labels)
            assert torch.equal(one, expected)
            assert torch.equal(same, expected)
            assert torch.equal(said, majority_vote(defended, expected, 30).labels != labels)
        assert is_adv[2].sum() > is_adv[0].sum()

    def test_one_radius_targets_and_relative_steps(self, defended, images, targets, attack):
        from cannonade.integrations.foolbox import FoolboxAttack, foolbox, foolbox_model

        criterion = foolbox.criteria.TargetedMisclassification(targets)
        ours = FoolboxAttack(attack, votes=30, rel_stepsize=0.5)
        raw, _, is_adv = ours(foolbox_model(defended), images, criterion, epsilons=0.06)
        expected = direct(replace(attack, eps=0.06, step_size=0.03), defended, images, Targeted(targets))
        assert torch.equal(raw, expected)
        assert is_adv.shape == (40,)

    def test_repeat_is_restarts(self, defended, images, labels, attack):
        from cannonade.integrations.foolbox import FoolboxAttack, foolbox_model

        raw, _, _ = FoolboxAttack(attack, votes=5).repeat(2)(
            foolbox_model(defended), images[:4], labels[:4], epsilons=0.07
        )
        assert torch.equal(raw, direct(replace(attack, restarts=2), defended, images[:4], labels[:4]))

    def test_any_module_behind_their_preprocessing(self, net, images, labels, attack):
        from cannonade.integrations.foolbox import FoolboxAttack, foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1), preprocessing={"mean": MEAN, "std": STD, "axis": -3})
        raw, _, _ = FoolboxAttack(attack, votes=1)(model, images, labels, epsilons=0.07)
        expected = direct(attack, undefended(net, mean=MEAN, std=STD), images, labels)
        assert ((raw - expected).abs() < 1e-5).float().mean() > 0.99

    def test_distances_and_refusals(self, defended, images, labels, attack):
        from cannonade.integrations.foolbox import FoolboxAttack, foolbox, foolbox_model

        model = foolbox_model(defended)
        assert FoolboxAttack(replace(attack, norm="l2")).distance is foolbox.distances.l2
        wrapped = foolbox.models.ExpectationOverTransformationWrapper(model, n_steps=4)
        normalised = foolbox.PyTorchModel(defended, bounds=(0, 1), preprocessing={"mean": 0.5, "std": 0.5})
        either = foolbox.criteria.Misclassification(labels) & foolbox.criteria.Misclassification(labels)
        for given, criterion, eps, words in (
            (wrapped, labels, 0.1, "EOT is a part of our attack"),
            (model.transform_bounds((0, 255)), labels, 0.1, r"use model.transform_bounds\(\(0, 1\)\)"),
            (normalised, labels, 0.1, "normalises by itself"),
            (model, either, 0.1, "criterion must be labels"),
            (model, labels, None, "epsilons must be numbers"),
        ):
            with pytest.raises(InputError, match=words):
                FoolboxAttack(attack)(given, images, criterion, epsilons=eps)
        with pytest.raises(InputError, match="AutoPGD has no step_size"):
            FoolboxAttack(AutoPGD(), rel_stepsize=0.1)(model, images, labels, epsilons=0.1)


class TestART:
    def test_generate(self, defended, images, labels, targets, attack):
        from cannonade.integrations.art import ArtAttack, art_classifier

        estimator = art_classifier(defended)
        x = images.numpy()
        expected = direct(attack, defended, images, labels).numpy()
        for batch_size in (40, 7):
            ours = ArtAttack(estimator, attack, batch_size=batch_size)
            assert np.array_equal(ours.generate(x, labels.numpy()), expected)
            assert np.array_equal(ours.generate(x, np.eye(5)[labels]), expected)
        voted = majority_vote(defended, images, 100, phase=Phase.SELECTION).labels
        assert np.array_equal(ours.generate(x), direct(attack, defended, images, voted).numpy())
        targeted = ArtAttack(estimator, attack, targeted=True)
        assert np.array_equal(
            targeted.generate(x, targets.numpy()), direct(attack, defended, images, Targeted(targets)).numpy()
        )
        with pytest.raises(InputError, match="must hold a target"):
            targeted.generate(x)
        assert ours.generate(x[:0]).shape == (0, 3, 8, 8)

    def test_parameters_are_set_as_theirs(self, defended, attack):
        from cannonade.integrations.art import ArtAttack, art_classifier

        ours = ArtAttack(art_classifier(defended), attack)
        ours.set_params(batch_size=3)
        assert ours.batch_size == 3
        assert "PGD(eps=0.07" in repr(ours)
        with pytest.raises(InputError, match="at least 1"):
            ours.set_params(batch_size=0)

    def test_a_defense_before_any_network(self, net, defended, images, labels, attack):
        from cannonade.integrations.art import ArtAttack, DefensePreprocessor, art_classifier

        preprocessor = DefensePreprocessor(defended.defense, seed=defended.seed, device_type="cpu")
        estimator = art_classifier(Classifier(net, input_size=(8, 8)), defenses=(preprocessor,))
        found = ArtAttack(estimator, attack).generate(images.numpy(), labels.numpy())
        assert np.array_equal(found, direct(attack, defended, images, labels).numpy())

    def test_any_network_with_their_normalisation(self, net, images, labels, attack):
        from art.estimators.classification import PyTorchClassifier

        from cannonade.integrations.art import ArtAttack, art_classifier

        normalise = (np.array(MEAN).reshape(3, 1, 1), np.array(STD).reshape(3, 1, 1))
        settings = {"clip_values": (0, 1), "device_type": "cpu", "preprocessing": normalise}
        estimator = PyTorchClassifier(net, nn.CrossEntropyLoss(), (3, 8, 8), 5, **settings)
        found = ArtAttack(estimator, attack).generate(images.numpy(), labels.numpy())
        expected = direct(attack, undefended(net, mean=MEAN, std=STD), images, labels).numpy()
        assert (np.abs(found - expected) < 1e-5).mean() > 0.99
        wide = PyTorchClassifier(net, nn.CrossEntropyLoss(), (3, 8, 8), 5, clip_values=(0, 255), device_type="cpu")
        with pytest.raises(InputError, match=r"clip_values must be \(0, 1\)"):
            ArtAttack(wide, attack).generate(images.numpy())
        with pytest.raises(InputError, match="input_shape must be given"):
            art_classifier(Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(8), net)))

    def test_scale_and_layout_are_named(self, defended, images, attack):
        from cannonade.integrations.art import ArtAttack, art_classifier

        ours, x = ArtAttack(art_classifier(defended), attack), images.numpy()
        with pytest.raises(InputError, match="divide 8-bit images by 255"):
            ours.generate(255 * x, np.zeros(40, dtype=int))
        with pytest.raises(InputError, match="move the channels first"):
            ours.generate(x.transpose(0, 2, 3, 1), np.zeros(40, dtype=int))


class TestAutoAttack:
    def test_apgd_is_ours(self, defended, images, labels):
        from cannonade.integrations.autoattack import APGDAttack

        ours = APGDAttack(defended, n_iter=5, eps=0.02, eot_iter=4, votes=30)
        attack = AutoPGD(eps=0.02, steps=5, gradient=EOT(samples=4))
        best = ours.perturb(images, labels, best_loss=True)
        assert torch.equal(best, direct(attack, defended, images, labels))
        broken = majority_vote(defended, best, 30, phase=Phase.SELECTION).labels != labels
        assert 0 < broken.sum() < 40
        kept = ours.perturb(images, labels)
        assert torch.equal(kept[broken], best[broken])
        assert torch.equal(kept[~broken], images[~broken])
        voted = majority_vote(defended, images, 30, phase=Phase.SELECTION).labels
        assert torch.equal(ours.perturb(images, best_loss=True), direct(attack, defended, images, voted))

    def test_standard_evaluation(self, defended, images, labels, capsys):
        from cannonade.integrations.autoattack import AutoAttack

        wrong = labels.clone()
        wrong[:3] = (wrong[:3] + 1) % 5
        ours = AutoAttack(defended, eps=0.02, n_iter=4, eot_iter=2, votes=30)
        found, said = ours.run_standard_evaluation(images, wrong, bs=40, return_labels=True)
        assert "robust: " in capsys.readouterr().out
        assert torch.equal(found, ours.run_standard_evaluation(images, wrong, bs=7))
        assert torch.equal(said, majority_vote(defended, found, 30).labels)
        assert torch.equal(found[:3], images[:3]), "what is wrong already is left alone"
        assert (found - images).abs().max() <= 0.02 + 1e-6
        clean = majority_vote(defended, images, 30, phase=Phase.BENIGN_VOTE).labels == wrong
        assert ours.clean_accuracy == pytest.approx(float(clean.double().mean()))
        assert ours.robust_accuracy == pytest.approx(float((clean & (said == wrong)).double().mean()))
        assert 0 < ours.robust_accuracy < ours.clean_accuracy < 1
        alone = ours.run_standard_evaluation_individual(images, wrong, bs=40)
        assert set(alone) == {"apgd-ce", "apgd-dlr"}

    def test_refusals(self, defended):
        from cannonade.integrations.autoattack import APGDAttack, AutoAttack

        for settings, words in (
            ({"version": "standard"}, "for deterministic classifiers"),
            ({"version": "custom", "attacks_to_run": ["fab"]}, "some of apgd-ce, apgd-dlr"),
        ):
            with pytest.raises(InputError, match=words):
                AutoAttack(defended, **settings)
        with pytest.raises(InputError, match="norm must be one of Linf, L2, L1"):
            APGDAttack(defended, norm="linf")


class TestSecmlTorch:
    def test_loader_in_loader_out(self, defended, images, labels, attack):
        from secmlt.adv.evasion.base_evasion_attack import BaseEvasionAttack
        from secmlt.metrics.classification import Accuracy
        from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier

        from cannonade.integrations.secml_torch import SecmlAttack

        ours = SecmlAttack(attack)
        assert isinstance(ours, BaseEvasionAttack)
        model = BasePyTorchClassifier(defended)
        expected = direct(attack, defended, images, labels)
        for size in (40, 16):
            found = ours(model, DataLoader(TensorDataset(images, labels), batch_size=size))
            assert isinstance(found, DataLoader)
            assert torch.equal(torch.cat([batch for batch, _ in found]), expected)
            assert torch.equal(torch.cat([batch for _, batch in found]), labels)
        assert Accuracy()(model, found) < 0.7
        streamed = ours(defended, DataLoader(TensorDataset(images, labels), batch_size=16), stream=True)
        assert torch.equal(next(streamed)[0], expected[:16])

    def test_targets_and_processing(self, net, defended, images, labels, attack):
        from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
        from torchvision.transforms.v2 import Normalize

        from cannonade.integrations.secml_torch import SecmlAttack

        loader = DataLoader(TensorDataset(images, labels), batch_size=40)
        ((found, _),) = SecmlAttack(attack, y_target=2)(defended, loader)
        assert torch.equal(found, direct(attack, defended, images, Targeted(torch.full_like(labels, 2), labels)))
        normalised = BasePyTorchClassifier(net, preprocessing=Normalize(MEAN, STD))
        ((found, _),) = SecmlAttack(attack)(normalised, loader)
        expected = direct(attack, undefended(net, mean=MEAN, std=STD), images, labels)
        assert ((found - expected).abs() < 1e-5).float().mean() > 0.99
        with pytest.raises(InputError, match="must stand alone"):
            SecmlAttack(attack)(BasePyTorchClassifier(defended, preprocessing=Normalize(MEAN, STD)), loader)


class TestAdvLib:
    def test_is_a_function_of_theirs(self, net, defended, images, labels, targets, attack):
        ours = AdvLibAttack(attack)
        assert torch.equal(ours(defended, images, labels), direct(attack, defended, images, labels))
        assert torch.equal(
            partial(ours, targeted=True)(defended, images, targets),
            direct(attack, defended, images, Targeted(targets)),
        )
        assert torch.equal(
            ours(model=net, inputs=images, labels=labels), direct(attack, undefended(net), images, Untargeted(labels))
        )
        assert pickle.loads(pickle.dumps(ours)) == ours

    def test_in_their_run_attack(self, defended, images, labels, attack, monkeypatch):
        """It times by CUDA events, also on a CPU, where there are none."""
        from cannonade.integrations.adv_lib import import_adv_lib

        class Event:
            def __init__(self, **_):
                pass

            def record(self):
                pass

            def elapsed_time(self, _):
                return 0.0

        if not torch.cuda.is_available():
            monkeypatch.setattr(torch.cuda, "Event", Event)
            monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        run_attack = import_adv_lib("adv_lib.utils.attack_utils").run_attack
        data = run_attack(defended, images, labels, AdvLibAttack(attack), batch_size=20)
        assert data["adv_inputs"].shape == images.shape


@pytest.mark.parametrize("framework", ["foolbox", "art", "secml-torch"])
def test_what_they_wrap_is_attacked_in_eval_mode(framework, net, images, labels, attack):
    """Also behind their preprocessing, also where their user left it in training mode, and that is not changed."""
    module = nn.Sequential(nn.Dropout(0.5), net).train()
    if framework == "foolbox":
        from cannonade.integrations.foolbox import _defended, foolbox

        with pytest.warns(UserWarning, match="in training mode"):
            model = foolbox.PyTorchModel(module, bounds=(0, 1), preprocessing={"mean": MEAN, "std": STD, "axis": -3})
    elif framework == "art":
        from art.estimators.classification import PyTorchClassifier

        from cannonade.integrations.art import _defended

        normalise = (np.array(MEAN).reshape(3, 1, 1), np.array(STD).reshape(3, 1, 1))
        settings = {"clip_values": (0, 1), "device_type": "cpu", "preprocessing": normalise}
        model = PyTorchClassifier(module, nn.CrossEntropyLoss(), (3, 8, 8), 5, **settings)
    else:
        from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
        from torchvision.transforms.v2 import Normalize

        from cannonade.integrations.secml_torch import _defended

        model = BasePyTorchClassifier(module, preprocessing=Normalize(MEAN, STD))
    training = module[0].training
    torch.testing.assert_close(_defended(model)(images), undefended(net, mean=MEAN, std=STD)(images))
    assert module[0].training == training
