"""`cannonade advise` and `cannonade sanity` on CIFAR-10 with the real classifier, and their answers to bad input."""

import sys
import zipfile

import pytest

from cannonade import cli


@pytest.fixture(scope="module")
def subject(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(shared_data / "cifar10_jpeg_test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        archive.extractall(folder, names[::700])
    weights = shared_data / "cifar10_resnet" / "resnet20-jpeg-finetuned.pt"
    return {"--model": "cifar_resnet20", "--weights": str(weights), "--data": str(folder / "test")}


def call(command, options, monkeypatch, capsys):
    """Status and what was printed."""
    words = [part for option in options.items() for part in option]
    monkeypatch.setattr(sys, "argv", ["cannonade", command, *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    seen = capsys.readouterr()
    return stop.value.code, " ".join((seen.out + seen.err).split())


def test_sanity(subject, monkeypatch, capsys):
    options = subject | {
        "--defense": "smoothing(sigma=0.03)",
        "--attack": "pgd(eps=8/255, steps=5, step_size=4/255)",
        "--votes": "10",
        "--queries": "30",
    }
    status, printed = call("sanity", options, monkeypatch, capsys)
    assert status == 0, printed
    assert "FAIL" not in printed
    assert "pass success rises with eps" in printed
    assert "white box at least as good as square" in printed


def test_advise(subject, monkeypatch, capsys):
    options = subject | {
        "--defense": "smoothing(sigma=0.05)",
        "--attack": "pgd(eps=2/255)",
        "--budget": "6",
        "--samples": "1,3",
        "--steps": "1/4,1/2",
        "--averages": "loss,logits",
        "--limit": "6",
        "--confirm": "8",
        "--votes": "10",
    }
    status, printed = call("advise", options, monkeypatch, capsys)
    assert status == 0, printed
    assert "6 allocations of 6 gradients" in printed
    assert "two draws agree on" in printed
    assert "advice: --attack 'pgd(eps=2/255" in printed
    assert printed.count("other images") == 2


def test_advice_that_cannot_be_confirmed_says_so(subject, monkeypatch, capsys):
    options = subject | {
        "--defense": "smoothing(sigma=0.05)",
        "--attack": "pgd(eps=2/255)",
        "--budget": "2",
        "--samples": "1",
        "--steps": "1/2",
        "--averages": "loss",
        "--limit": "13",
        "--confirm": "1",
        "--votes": "10",
    }
    status, printed = call("advise", options, monkeypatch, capsys)
    assert status == 0, printed
    assert "0 images are left to confirm on, not 1" in printed
    assert "other images" not in printed


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        ("sanity", {"--attack": "square()"}, "unknown attack 'square'"),
        ("sanity", {"--eot": "0"}, "samples must be at least 1, got 0"),
        ("advise", {"--budget": "7", "--samples": "2,3"}, "must divide the budget 7"),
        ("advise", {"--averages": "median"}, "average must be"),
        ("advise", {"--steps": "0"}, "step_size must be positive"),
        ("advise", {"--steps": "big"}, "values must be literals"),
        ("advise", {"--limit": "0"}, "limit and votes must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(command, changes, words, monkeypatch, capsys):
    good = {"--model": "efficientnet_lite0", "--data": "samples", "--defense": "smoothing"}
    if command == "sanity":
        good["--attack"] = "pgd"
    status, printed = call(command, good | changes, monkeypatch, capsys)
    assert status == 2
    assert words in printed
    assert printed.startswith("cannonade: ")
