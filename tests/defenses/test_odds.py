"""The odds detector against numpy, its false alarms on clean images, and logit matching."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import MatchLogits, Targeted
from cannonade.attacks.logit_matching import LogitMatching, exchanged
from cannonade.attacks.pgd import PGD
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses.odds import Noise, Odds, OddsStatistics, calibrate_odds, odds_changes, parse_noise
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.identity import Identity
from cannonade.transforms.noise import Smoothing

SIGMA, DRAWS = 0.1, 6
ONE = (Noise("normal", SIGMA),)
THREE = (Noise("normal", 0.05), Noise("uniform", 0.2), Noise("sign", 0.1))


def curved(classes=4):
    """Noise moves its logits systematically, and differently from image to image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, classes))
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return Classifier(net, input_size=(4, 4)).double()


def images(count, seed=1):
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streams(count, phase=Phase.ATTACK):
    return Draws(seed=2, phase=phase, images=torch.arange(count), queries=torch.zeros(count, dtype=torch.int64))


def statistics(classifier, count=400, **settings):
    batches = [
        (part, torch.arange(400)[rows]) for rows in torch.arange(count).split(150) for part in [images(400)[rows]]
    ]
    return calibrate_odds(classifier, batches, **({"seed": 2, "noises": ONE, "draws": DRAWS} | settings))


def noise_by_numpy(noise, stream):
    if noise.kind == "normal":
        return stream.normal(0.0, noise.scale, (3, 4, 4))[0].double()
    drawn = stream.uniform(-noise.scale, noise.scale, (3, 4, 4))[0].double()
    return drawn if noise.kind == "uniform" else drawn.sign() * noise.scale


def scores_by_numpy(classifier, known, pictures, own, noises):
    """Image by image, draw by draw, as the paper writes it; of several noises the mean of the scores."""
    found = []
    for row, image in enumerate(pictures):
        f = classifier(image[None])[0].numpy()
        y = int(f.argmax())
        g = np.zeros((len(noises), DRAWS, len(f)))
        for e, noise in enumerate(noises):
            for j in range(DRAWS):
                drawn = noise_by_numpy(noise, own[row : row + 1].part(0).site(e * DRAWS + j))
                noisy = classifier((image + drawn).clamp(0, 1)[None])[0].numpy()
                for z in range(len(f)):
                    g[e, j, z] = (noisy[z] - noisy[y]) - (f[z] - f[y])
        if known is None:
            found.append((y, g.mean(1)))
            continue
        mean, std = known.mean.numpy(), known.std.numpy()
        score = np.full(len(f), -np.inf)
        for z in range(len(f)):
            if z != y and np.isfinite(std[0, y, z]):
                each = [(g[e, :, z].mean() - mean[e, y, z]) / std[e, y, z] for e in range(len(noises))]
                score[z] = np.mean(each)
        found.append((y, score))
    return found


@pytest.mark.parametrize("noises", [ONE, THREE])
def test_statistics_against_numpy(noises):
    classifier = curved()
    known = statistics(classifier, 60, noises=noises)
    rows = scores_by_numpy(classifier, None, images(400)[:60], streams(60, Phase.TRAINING), noises)
    for label in range(4):
        own = np.array([change for y, change in rows if y == label])
        if len(own) < 3:
            assert known.mean[:, label].isnan().all()
            continue
        np.testing.assert_allclose(known.mean[:, label], own.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(known.std[:, label], own.std(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("cutoff", "noises"), [(0.5, ONE), (0.9, ONE), (0.999, ONE), (0.5, THREE)])
def test_detection_and_correction_against_numpy(cutoff, noises):
    classifier = curved()
    known = statistics(classifier, noises=noises)
    odds, pictures, own = Odds(statistics=known, cutoff=cutoff), images(50, seed=5), streams(50)
    logits = DefendedClassifier(classifier, odds).logits(pictures, own)
    detected = odds.detects(classifier, pictures, own)
    plain = classifier(pictures)
    for row, (y, score) in enumerate(scores_by_numpy(classifier, known, pictures, own, noises)):
        alarm = score.max() > stats.norm.ppf(cutoff)
        assert bool(detected[row]) == alarm
        expected = plain[row].clone()
        if alarm:
            z = int(score.argmax())
            expected[[y, z]] = plain[row][[z, y]]
            assert int(logits[row].argmax()) == z
        torch.testing.assert_close(logits[row], expected)
    assert 0 < int(detected.sum()) < 50 or cutoff == 0.999


def test_false_alarms_on_fresh_clean_images():
    """With two classes there is one pair, which alarms in about 1 − cutoff of the clean images where the changes are normal.

    600 images, cutoff .9: between 5 and 16 %, far outside of which are a wrong tail (50 or 90 %) and a wrong scale.
    """
    classifier = curved(2)
    odds = Odds(statistics=statistics(classifier), cutoff=0.9)
    share = odds.detects(classifier, images(600, seed=9), streams(600)).double().mean()
    assert 0.05 < share < 0.16


def test_images_moved_to_where_noise_undoes_them_are_detected():
    """The attack leaves images in thin corners of another class, which noise leaves again: more alarms than on clean ones."""
    classifier = curved()
    odds = Odds(statistics=statistics(classifier, draws=20), cutoff=0.99)
    clean = images(200, seed=6)
    labels = classifier(clean).argmax(1)
    attack = PGD(eps=0.05, steps=20, step_size=0.01, loss="margin")
    plain = DefendedClassifier(classifier, Identity())
    moved = attack(plain, clean, labels).images
    fooled = classifier(moved).argmax(1) != labels
    assert fooled.sum() > 20
    alarms = [odds.detects(classifier, part[fooled], streams(200)[fooled]).double().mean() for part in (clean, moved)]
    assert alarms[1] > alarms[0] + 0.05


def test_statistics_come_back_from_their_file(tmp_path):
    known = statistics(curved(), 60)
    known.save(tmp_path / "odds.safetensors")
    again = OddsStatistics.load(tmp_path / "odds.safetensors")
    assert repr(again) == repr(known)
    assert (again.noises, again.draws) == (ONE, DRAWS)
    several = statistics(curved(), 20, noises=THREE)
    several.save(tmp_path / "odds.safetensors")
    again = OddsStatistics.load(tmp_path / "odds.safetensors")
    assert (again.noises, repr(again)) == (THREE, repr(several))
    assert repr(statistics(curved(), 59)) != repr(known)
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        Odds(statistics=str(tmp_path / "broken"))


def test_bad_input():
    classifier, known = curved(), statistics(curved(), 60)
    with pytest.raises(InputError, match="cutoff must be in"):
        Odds(statistics=known, cutoff=1.0)
    with pytest.raises(InputError, match="the classifier's 3 classes, got 4"):
        DefendedClassifier(curved(3), Odds(statistics=known)).logits(images(2), streams(2))
    for settings, words in (
        ({"noises": ()}, "at least one noise"),
        ({"draws": 0}, "draws"),
        ({"noises": THREE, "draws": 1345}, r"in \[1, 1344\] for 3 noises, got 1345"),
    ):
        with pytest.raises(InputError, match=words):
            statistics(classifier, **settings)
    with pytest.raises(InputError, match="at least one batch"):
        calibrate_odds(classifier, [], seed=0)


def test_changes_are_zero_for_the_predicted_class():
    classifier = curved()
    changes = odds_changes(classifier, images(9), classifier(images(9)), streams(9), noises=THREE, count=3)
    assert (changes.gather(2, classifier(images(9)).argmax(1)[None, :, None].expand(3, 9, 1)) == 0).all()


def test_matching_is_pgd_on_the_squared_distance_under_noise():
    classifier, pictures = curved(), images(5)
    labels = classifier(pictures).argmax(1)
    defended = DefendedClassifier(classifier, Odds(statistics=statistics(classifier)), seed=3)
    attack = LogitMatching(eps=0.2, steps=4, step_size=0.05, noise=SIGMA, gradient=EOT(samples=3))
    result = attack(defended, pictures, labels)
    wanted = exchanged(classifier(pictures), labels)
    own = torch.arange(5)
    points = pictures.clone()
    noise = Smoothing(sigma=SIGMA, clip=True)
    for step in range(4):
        leaf = points.clone().requires_grad_()
        total = 0
        for draw in range(3):
            query = torch.full((5,), 3 * step + draw)
            drawn = Draws(seed=3, phase=Phase.ATTACK, images=own, queries=query)
            total = total + (classifier(noise(leaf, drawn)) - wanted).square().sum()
        total.backward()
        points = (points - 0.05 * leaf.grad.sign()).clamp(pictures - 0.2, pictures + 0.2).clamp(0, 1)
    torch.testing.assert_close(result.images, points, rtol=0, atol=1e-6)
    assert result.gradients.tolist() == [12] * 5
    assert result.forwards.tolist() == [13] * 5 == [attack.queries] * 5
    nearer = [(classifier(points) - wanted).norm(), (classifier(pictures) - wanted).norm()]
    assert nearer[0] < nearer[1]


def test_exchange_and_goal():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    labels = torch.tensor([0, 2])
    assert exchanged(logits, labels).tolist() == [[2.0, 1.0, 3.0], [0.0, 4.0, 5.0]]
    goal = MatchLogits(labels, logits)
    assert goal.objective(logits + 1, None).tolist() == [-3.0, -3.0]
    assert goal[1:].reached(torch.tensor([2])).tolist() == [False]
    assert len(goal) == 2
    with pytest.raises(InputError, match="no target but logits"):
        LogitMatching()(DefendedClassifier(curved(), Identity()), images(2), Targeted(labels))


def test_noises():
    assert parse_noise("n30/255") == Noise("normal", 30 / 255)
    assert parse_noise(" u0.003") == Noise("uniform", 0.003)
    assert [parse_noise(str(noise)) for noise in THREE] == list(THREE)
    for text, words in (
        ("30/255", "noise must be n, u or s and a scale"),
        ("", "noise must be n, u or s and a scale"),
        ("n", "the scale of noise must be a number"),
        ("nx", "the scale of noise must be a number"),
        ("u-1", "must be positive, got -1"),
    ):
        with pytest.raises(InputError, match=words):
            parse_noise(text)
    with pytest.raises(InputError, match="normal, uniform or sign, got 'n'"):
        Noise("n", 0.1)
    shape = torch.Size((3, 64, 64))
    for noise, std in zip(THREE, (0.05, 0.2 / 3**0.5, 0.1), strict=True):
        drawn = noise.draw(streams(2).part(0).site(0), shape)
        assert drawn.shape == (2, *shape)
        # Of 24,576 numbers: their standard deviation is within 3 % (5 standard errors or more), their mean within 5 of its own.
        assert float(drawn.std()) == pytest.approx(std, rel=0.03)
        assert abs(float(drawn.mean())) < 5 * std / 24576**0.5
    assert set(drawn.flatten().tolist()) == {drawn.min().item(), -drawn.min().item()}
