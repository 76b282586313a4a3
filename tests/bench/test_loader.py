"""The comparison of loaders: it runs, sees what it should see, and refuses to time what differs."""

import json
from importlib.util import find_spec

import pytest
import torch
from typer.testing import CliRunner

from cannonade.bench import loader
from cannonade.bench.loader import check, judge, measure, sides
from cannonade.bench.timing import Timing
from cannonade.cli import app
from cannonade.data.sources import from_dataset, open_source
from cannonade.errors import InputError
from cannonade.models import load_model

pytestmark = [
    pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="DALI is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*dlpack.*"),
]
SETTINGS = {"batch": 3, "workers": 0}


def test_command(folder, tmp_path):
    out = tmp_path / "loader.json"
    arguments = ["--side", "48", "--batch", "4", "--workers", "0", "--rounds", "2", "--data", str(folder)]
    ran = CliRunner().invoke(app, ["bench", "loader", *arguments, "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "× torchvision" in ran.output
    record = json.loads(out.read_text())
    assert [(row["second"], row["augmented"]) for row in record["pixels"]] == [
        ("portable", False), ("torchvision", False), ("portable", True),
    ]  # fmt: skip
    assert len(record["speed"]) == 6
    assert all(row["quartiles"][0] <= row["median"] <= row["quartiles"][1] for row in record["speed"])


def test_other_pixels_are_not_timed(folder, monkeypatch):
    def darker(*arguments, **settings):
        made = sides(*arguments, **settings)
        return made | {"torchvision": lambda: (images * 0.98 for images in made["dali"]())}

    source = open_source(str(folder))
    check(source, (48, 48), **SETTINGS)
    monkeypatch.setattr(loader, "sides", darker)
    with pytest.raises(InputError, match="dali and torchvision must decode alike"):
        check(source, (48, 48), **SETTINGS)


def test_missing_images_are_not_timed(folder, monkeypatch):
    def fewer(*arguments, **settings):
        made = sides(*arguments, **settings)
        return made | {"portable": lambda: iter(list(made["portable"]())[:-1])}

    monkeypatch.setattr(loader, "sides", fewer)
    with pytest.raises(InputError, match="every image must come once, expected 6, got 3"):
        list(measure(open_source(str(folder)), (48, 48), rounds=1, **SETTINGS))


def test_ratios_are_against_torchvision(folder, monkeypatch):
    def timed(cases, rounds):
        return {name: Timing((2.0**place, 2.0 ** (place + 1))) for place, name in enumerate(cases)}

    monkeypatch.setattr(loader, "interleaved", timed)
    speeds = list(measure(open_source(str(folder)), (48, 48), rounds=2, **SETTINGS))
    assert [(speed.side, speed.ratio) for speed in speeds] == 2 * [
        ("dali", 4.0),
        ("portable", 2.0),
        ("torchvision", 1.0),
    ]


def test_accuracy_on_real_photos():
    source = open_source("samples").limited(5)
    rows = list(judge(load_model("efficientnet_lite0"), source, (224, 224), **SETTINGS))
    assert [row.side for row in rows] == list(loader.SIDES)
    assert rows[0].changed == 0
    assert all(row.images == 5 and row.right >= 4 for row in rows)


def test_arrays_have_no_files():
    with pytest.raises(InputError, match="compared on image files"):
        sides(from_dataset((torch.zeros(1, 3, 8, 8), [0])), (8, 8), augmented=False, **SETTINGS)
