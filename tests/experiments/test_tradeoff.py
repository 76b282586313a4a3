"""Figures 3 and 4: the paper's settings and rates, and the comparison of a classifier before and after fine-tuning."""

import json
import sys

import pytest
from PIL import Image

from cannonade import cli
from cannonade.defenses import build_defense
from cannonade.errors import InputError
from cannonade.experiments.tradeoff import SCALES, STUDIES, cells_of, parse_after
from cannonade.experiments.unlike import with_own
from cannonade.transforms.noise import Smoothing


def test_the_papers_settings_and_rates():
    for study in STUDIES.values():
        assert {len(rates) for rates in study.published.values()} == {len(study.values)}
        assert len(study.published) == 6
    assert STUDIES["figure3"].paper("targeted", "before", "4") == pytest.approx(0.8451)
    assert STUDIES["figure4"].paper("untargeted", "after", "0.5") == pytest.approx(0.7569)
    assert STUDIES["figure4"].paper("benign", "before", "0.07") is None
    cells = cells_of(STUDIES["figure3"], SCALES["full"], ["1", "6"], target="least_likely")
    assert [(cell.settings.defense, cell.settings.target) for cell in cells] == [
        ("bart_gao(k=1)", None), ("bart_gao(k=1)", "least_likely"), ("bart_gao(k=6)", None), ("bart_gao(k=6)", "least_likely"),
    ]  # fmt: skip
    assert {(cell.settings.attack, cell.settings.votes, cell.settings.eot) for cell in cells} == {
        ("auto_pgd(eps=8/255, steps=200)", 200, 1)
    }


def test_own_settings_reach_the_attack():
    own = with_own(
        SCALES["full"], attack="pgd(eps=4/255, steps=7)", samples=3, votes=9, limit=None, stop="exact", backward="own"
    )
    [cell, _] = cells_of(STUDIES["figure4"], own, ["0.5"])
    assert build_defense(cell.settings.defense) == Smoothing(sigma=0.5)  # whose backward is the identity's
    assert (cell.settings.attack, cell.settings.eot, cell.settings.votes) == ("pgd(eps=4/255, steps=7)", 3, 9)
    assert own.changes == (
        "pgd(eps=4/255, steps=7), not auto_pgd(eps=8/255, steps=200)",
        "m = 3, not m = 1",
        "9 votes, not 200 votes",
        "stop exact, not stop none",
        "backward own, not backward identity",
    )
    [text] = SCALES["full"].changes  # how AutoPGD differs from theirs
    assert "ART 1.9.1" in text
    for wrong in ({"samples": -1}, {"limit": 0}, {"votes": 0}):
        [name] = wrong
        with pytest.raises(InputError, match=f"{name} must be at least 1, got {wrong[name]}"):
            with_own(own, **wrong)


@pytest.mark.parametrize("text", ["3", "3=", "=file="])
def test_after(text):
    if text == "=file=":
        assert parse_after(text)[1].name == "file="
        return
    with pytest.raises(InputError, match="VALUE=FILE"):
        parse_after(text)


def test_command(tmp_path, monkeypatch, capsys):
    """Two trainings of a tiny network, one without the defense and one on it, compared."""
    for part in ("train", "val"):
        for label, colour in enumerate(((200, 60, 60), (60, 60, 200))):
            folder = tmp_path / part / str(label)
            folder.mkdir(parents=True)
            for number in range(6):
                shade = tuple(channel - 6 * number for channel in colour)
                Image.new("RGB", (32, 32), shade).save(folder / f"{number}.png")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["cannonade", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        assert stop.value.code == 0, printed.out + printed.err
        return printed.out

    model, data = "resnet_tiny(width=4)", ("--data", tmp_path / "train", "--val", tmp_path / "val")
    for name, defense in (("plain", "identity"), ("tuned", "smoothing(sigma=0.3)")):
        call(
            "finetune", "--model", model, "--scratch", "--size", 32, *data, "--defense", defense, "--epochs", 2,
            "--batch", 6, "--votes", 2, "--out", tmp_path / name, "--device", "cpu",
        )  # fmt: skip
    printed = call(
        "reproduce", "figure4", "--model", "resnet_tiny", "--data", tmp_path / "val", "--scale", "small",
        "--attack", "pgd(eps=8/255, steps=2)", "--samples", 2, "--votes", 5, "--limit", 12,
        "--before", tmp_path / "plain" / "last.safetensors", "--after", f"0.3={tmp_path / 'tuned' / 'last.safetensors'}",
        "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert "smoothing(sigma=0.3), targeted" in printed
    assert "; paper 21.4 % → 93.0 %" in printed
    for text in (
        "pgd(eps=8/255, steps=2), not auto_pgd(eps=8/255, steps=200)",
        "m = 2, not m = 1",
        "12 images, not 785 images",
        "5 votes, not 200 votes",
    ):
        assert f"unlike the original: {text}\n" in printed
    rows = json.loads((tmp_path / "out" / "figure4.json").read_text())["changes"]
    assert [(row["value"], row["goal"]) for row in rows] == [("0.3", "untargeted"), ("0.3", "targeted")]
    for row in rows:
        assert row["before"]["config_hash"] != row["after"]["config_hash"]
        assert row["published_success_after"] == STUDIES["figure4"].paper(row["goal"], "after", "0.3")
    assert (tmp_path / "out" / "figure4.svg").is_file()
