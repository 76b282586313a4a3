"""The comparison of trainings: it runs, sees what it should see, and refuses to time what differs."""

import json
from importlib.util import find_spec

import pytest
from PIL import Image
from typer.testing import CliRunner

from cannonade.bench import finetune
from cannonade.bench.finetune import PerImage, check, measure
from cannonade.cli import app
from cannonade.data.sources import open_source
from cannonade.data.views import Feed
from cannonade.defenses import build_defense
from cannonade.errors import InputError

pytestmark = [
    pytest.mark.skipif(find_spec("skimage") is None, reason="scikit-image is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*dlpack.*"),
]
FEED = Feed(size=(48, 48), batch=3)


def test_command(folder, tmp_path):
    out = tmp_path / "finetune.json"
    arguments = ["--side", "48", "--batch", "4", "--workers", "0", "--rounds", "1", "--data", str(folder)]
    defenses = ["--defense", "bart_gao(k=3)", "--defense", "smoothing", "--model", "resnet_tiny(width=4)"]
    ran = CliRunner().invoke(app, ["bench", "finetune", *arguments, *defenses, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "nothing but noise" in ran.output
    record = json.loads(out.read_text())
    assert [(row["defense"], row["model"]) for row in record["speed"]] == [
        ("bart_gao(k=3)", True), ("bart_gao(k=3)", False), ("smoothing", True), ("smoothing", False),
    ]  # fmt: skip
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["theirs"]) for row in record["speed"])
    assert record["difference"]["bart_gao(k=3)"] < finetune.TOLERANCE


def test_another_transform_is_not_timed(folder, monkeypatch):
    source, defense = open_source(str(folder)), build_defense("swirl")
    assert check(source, FEED.size, defense) < finetune.TOLERANCE
    monkeypatch.setattr(finetune, "run_oracles", lambda image, steps: image * 0.9)
    with pytest.raises(InputError, match="must do the same on both sides"):
        check(source, FEED.size, defense)


def test_missing_images_are_not_timed(folder, monkeypatch):
    monkeypatch.setattr(PerImage, "__len__", lambda self: 5)
    settings = {"model": "resnet_tiny(width=4)", "batch": 4, "workers": 0, "rounds": 1}
    with pytest.raises(InputError, match="every image must come once, expected 6, got 5"):
        list(measure(open_source(str(folder)), (48, 48), "smoothing", **settings))


def test_a_defense_without_an_oracle(folder):
    with pytest.raises(InputError, match="identity has no oracle"):
        PerImage(open_source(str(folder)), FEED, build_defense("identity"))


def test_noise_of_the_other_side_has_its_strength(folder):
    images = PerImage(open_source(str(folder)), FEED, build_defense("smoothing(sigma=0.2)"))
    plain = images._crop(Image.open(folder / "a" / "0.jpg"))
    noise = images.defended(plain, 0) - plain
    assert float(noise.std()) == pytest.approx(0.2, rel=0.05)
    assert abs(float(noise.mean())) < 0.01
