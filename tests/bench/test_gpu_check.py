"""The GPU check says so where there is no GPU; what it compares is run here on the CPU against itself."""

import time

import pytest
import torch

from cannonade.bench import gpu_check
from cannonade.bench.gpu_check import (
    check_capture,
    check_chunks,
    check_loader,
    check_model_side,
    check_peers,
    check_roofline,
    check_run,
    check_transforms,
    main,
)
from cannonade.classifier import Classifier
from cannonade.defenses import executor
from cannonade.defenses.bart import BaRT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_nothing_was_checked(capsys):
    assert main() == 2
    assert "nothing was checked" in capsys.readouterr().out


def test_transforms_equal_themselves(photos):
    results = list(check_transforms(photos[:2, :, 60:100, 60:100], torch.device("cpu")))
    assert len(results) >= 38
    assert all(passed for _, passed, _ in results), results


def test_a_broken_part_is_a_failed_check():
    def part():
        yield "first", True, "figures"
        raise RuntimeError("no such kernel\nand more")

    now = time.monotonic()
    assert list(gpu_check._guarded("part", part, now)) == [
        ("first", True, "figures"),
        ("part", False, "RuntimeError: no such kernel"),
    ]
    assert [passed for _, passed, _ in gpu_check._guarded("part", part, now - 1000)] == [False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other libraries'
def test_timed_parts_run(photos, monkeypatch):
    """Each timed once, on small images and the CPU."""
    monkeypatch.setattr(gpu_check, "_seconds", lambda case: (case(), 1.0)[1])
    small = photos[:1, :, 90:122, 90:122]
    device = torch.device("cpu")
    assert len(list(check_roofline(small, device, 1024))) == 26
    peers = list(check_peers(small, device))
    assert [name for name, _, _ in peers] == ["torchattacks", "foolbox", "ART"]
    assert all(passed for _, passed, _ in peers)
    assert all(passed for _, passed, _ in check_loader(device))


def test_a_model_side_defense_that_does_not_repeat_is_found(photos, monkeypatch):
    small, device = photos[:1, :, 90:122, 90:122], torch.device("cpu")
    checks = list(check_model_side(small, device))
    assert [passed for _, passed, _ in checks] == [True, True], checks
    asked, logits = [], gpu_check.DefendedClassifier.logits

    def wavering(self, images, draws):
        asked.append(1)
        return logits(self, images, draws) + 1e-3 * len(asked)

    monkeypatch.setattr(gpu_check.DefendedClassifier, "logits", wavering)
    assert [passed for _, passed, _ in check_model_side(small, device)] == [False, False]


def test_a_mean_that_depends_on_the_chunk_is_found(photos, monkeypatch):
    small, device = photos[:1, :, 90:122, 90:122], torch.device("cpu")
    checks = list(check_chunks(small, device))
    assert [passed for _, passed, _ in checks] == [True] * 3, checks
    logits = gpu_check.DefendedClassifier.logits
    monkeypatch.setattr(
        gpu_check.DefendedClassifier, "logits", lambda self, images, draws: logits(self, images, draws) * len(images)
    )
    assert [passed for _, passed, _ in check_chunks(small, device)][:2] == [False, False]


def test_a_run_that_does_not_repeat_is_found(monkeypatch):
    [(_, passed, figures)] = check_run("cpu")
    assert passed, figures
    read = gpu_check.RunDirectory.read_images
    monkeypatch.setattr(
        gpu_check.RunDirectory,
        "read_images",
        lambda self: [record | {"distance": self.path.name} for record in read(self)],
    )
    assert [passed for _, passed, _ in check_run("cpu")] == [False]


@pytest.mark.interpreter
def test_a_capture_is_held_against_the_schedule(photos, monkeypatch):
    """Replayed here by running it again into the same tensors; one that does nothing new is found."""
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "triton")
    monkeypatch.setattr(gpu_check, "_seconds", lambda case: (case(), 1.0)[1])
    monkeypatch.setattr(gpu_check, "load_model", lambda *_, **__: Classifier(torch.nn.Flatten()))
    bart = BaRT(k=2, groups=False, transforms=("yuv_shift", "gaussian_blur(sigma=(0.3, 0.7))", "noise_injection"))
    small = photos[:2, :, 90:98, 90:106]

    def again(work):
        results = work()
        return lambda: [own.copy_(new) for own, new in zip(results, work(), strict=True)], results

    checks = list(check_capture(small, torch.device("cpu"), bart, again))
    assert [passed for _, passed, _ in checks] == [True, True], checks
    checks = list(check_capture(small, torch.device("cpu"), bart, lambda work: (lambda: None, work())))
    assert [passed for _, passed, _ in checks] == [False, True], checks
