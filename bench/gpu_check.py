"""`make gpu-check`: everything worth running when a GPU is at hand, ordered by worth; a table, and gpu-check.json.

The figures of parity are differences from the CPU, which the tests hold against independent oracles.
"""

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import cross_entropy
from cannonade.bench.hardware import describe
from cannonade.bench.timing import interleaved
from cannonade.data.sources import open_source
from cannonade.defended import DefendedClassifier
from cannonade.defenses import DEFENSES, build_defense
from cannonade.draws import Draws, Phase
from cannonade.kernels.philox import draw
from cannonade.models import load_model
from cannonade.transforms import Transform

# Rounding at a discontinuity (a quantiser, a median, a threshold) moves a few pixels by much: the mean is held.
_MEAN = 1e-3
_NORMAL = 2e-6

Check = tuple[str, bool, str]


def main() -> int:
    """Run the checks; returns the exit status: 0 all passed, 1 some failed, 2 no GPU."""
    if not torch.cuda.is_available():
        print("gpu-check: no GPU on this machine, so nothing was checked")
        return 2
    torch.backends.cudnn.allow_tf32 = False
    source = open_source("samples").limited(8)
    photos = source.load(source.items, (224, 224))
    results: list[Check] = []
    device = torch.device("cuda")
    for check in chain(check_draws(), check_transforms(photos, device), check_throughput(photos, device)):
        results.append(check)
        name, passed, figures = check
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {figures}", flush=True)
    lines = [{"check": name, "passed": passed, "figures": figures} for name, passed, figures in results]
    Path("gpu-check.json").write_text(json.dumps({"hardware": describe(), "checks": lines}, indent=2) + "\n")
    return 0 if all(passed for _, passed, _ in results) else 1


def check_draws() -> Iterator[Check]:
    """The Triton generator on the device against the PyTorch reference."""
    coordinates = torch.tensor([[1, 2, image, 3, 4] for image in range(64)])
    for kind in ("words", "uniform", "normal"):
        expected = draw(coordinates, 1001, kind, backend="torch")
        ours = draw(coordinates.cuda(), 1001, kind, backend="triton").cpu()
        largest = float((ours.double() - expected.double()).abs().max())
        yield f"draws, {kind}", largest <= (_NORMAL if kind == "normal" else 0), f"largest difference {largest:.2g}"


def check_transforms(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """Parameters bit-equal, images and gradients as on the CPU."""
    ids = torch.arange(len(photos))
    streams = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    for name, kind in DEFENSES.items():
        transform = kind(**kind.example)
        expected, gradient, params = _forward_backward(transform, photos, streams)
        out, ours, own = _forward_backward(transform, photos.to(device), streams.to(device))
        same = all(torch.equal(own[key].cpu(), value) for key, value in params.items())
        apart = float((out.cpu() - expected).abs().mean())
        cosine = float(torch.nn.functional.cosine_similarity(ours.cpu().flatten(), gradient.flatten(), dim=0))
        figures = (
            f"parameters {'equal' if same else 'DIFFER'}, mean difference {apart:.2g}, gradient cosine {cosine:.5f}"
        )
        yield name, same and apart <= _MEAN and cosine >= 0.99, figures


def _forward_backward(transform: Transform, images: Tensor, streams: Draws) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    leaf = images.clone().requires_grad_()
    params = dict(transform.sample(streams, leaf.shape))
    out = transform.transform(leaf, params)
    (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
    return out.detach(), gradient, params


def check_throughput(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """Defended gradients of EOT-16 over the bare model's, and the memory they take."""
    classifier = load_model("efficientnet_lite0", device=device)
    images = photos.to(device)
    ids = torch.arange(len(images), device=device)
    streams = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    eot = EOT(samples=16, chunk=128)
    goal = Untargeted(classifier(images).argmax(1))

    def seconds(defense: str) -> float:
        defended = DefendedClassifier(classifier, build_defense(defense))

        def estimate() -> None:
            eot.estimate(defended, images, goal, cross_entropy, streams)
            torch.cuda.synchronize()

        return interleaved({defense: estimate}, rounds=5)[defense].median

    bare = seconds("identity")
    for defense in ("smoothing", "rotation", "bart_gao(k=6)", "bart(k=5)"):
        torch.cuda.reset_peak_memory_stats()
        own = seconds(defense)
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures = f"{16 * len(images) / own:.0f} gradients/s, {own / bare:.2f} of the bare model's time, {peak:.1f} GiB"
        yield f"EOT-16 behind {defense}", True, figures


if __name__ == "__main__":
    sys.exit(main())
