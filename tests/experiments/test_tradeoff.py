"""Figures 3 and 4: the paper's settings and rates, and the comparison of a classifier before and after fine-tuning."""

import json
import sys

import pytest
from PIL import Image

from cannonade import cli
from cannonade.errors import InputError
from cannonade.experiments import tradeoff
from cannonade.experiments.tradeoff import SCALES, STUDIES, Scale, cells_of, parse_after


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
    monkeypatch.setitem(tradeoff.SCALES, "small", Scale(steps=2, limit=12, votes=5))
    printed = call(
        "reproduce", "figure4", "--model", "resnet_tiny", "--data", tmp_path / "val", "--scale", "small",
        "--before", tmp_path / "plain" / "last.safetensors", "--after", f"0.3={tmp_path / 'tuned' / 'last.safetensors'}",
        "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert "smoothing(sigma=0.3), targeted" in printed
    assert "; paper 21.4 % → 93.0 %" in printed
    assert "unlike the original: 2 steps, not 200 steps\n" in printed
    rows = json.loads((tmp_path / "out" / "figure4.json").read_text())["changes"]
    assert [(row["value"], row["goal"]) for row in rows] == [("0.3", "untargeted"), ("0.3", "targeted")]
    for row in rows:
        assert row["before"]["config_hash"] != row["after"]["config_hash"]
        assert row["published_success_after"] == STUDIES["figure4"].paper(row["goal"], "after", "0.3")
    assert (tmp_path / "out" / "figure4.svg").is_file()
