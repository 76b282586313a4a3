"""`make gpu-check`: everything worth running when a GPU is at hand, ordered by worth; a table, and gpu-check.json.

The figures of parity are differences from the CPU, which the tests hold against independent oracles.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import cross_entropy
from cannonade.attacks.pgd import PGD
from cannonade.bench.hardware import describe
from cannonade.bench.peers import Budget, art_pgd, foolbox_eot, torchattacks_eotpgd
from cannonade.bench.timing import interleaved
from cannonade.classifier import Classifier
from cannonade.data.loader import open_loader
from cannonade.data.sources import open_source
from cannonade.data.views import Feed
from cannonade.defended import DefendedClassifier
from cannonade.defenses import DEFENSES, build_defense
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.evaluation.assemble import assemble
from cannonade.evaluation.estimate import estimate
from cannonade.evaluation.grid import Settings
from cannonade.evaluation.run import run
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.kernels.backend import carry
from cannonade.kernels.philox import draw
from cannonade.models import load_model
from cannonade.transforms import Transform
from cannonade.transforms.base import Params
from cannonade.voting import majority_vote

# Rounding at a discontinuity (a quantiser, a median, a threshold) moves a few pixels by much: the mean is held.
_MEAN = 1e-3
_NORMAL = 2e-6

_SECONDS = 540  # after which no further part is begun
_END = 585  # when other programs are ended
_REPLAYED = 1e-4
_BART = BaRT()
_JUDGED = ("smoothing", "rotation", "bart_gao(k=6)", "bart(k=5)")

Check = tuple[str, bool, str]
# Of work: what runs it again, and the tensors that its results are in.
Capture = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Callable[[], None], tuple[Tensor, ...]]]


def main() -> int:
    """Run the checks; returns the exit status: 0 all passed, 1 some failed, 2 no GPU."""
    if not torch.cuda.is_available():
        print("gpu-check: no GPU on this machine, so nothing was checked")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    started = time.monotonic()
    source = open_source("samples").limited(8)
    photos = source.load(source.items, (224, 224))
    device = torch.device("cuda")
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        "kernels": lambda: check_kernels(_END / 2),
        "draws": check_draws,
        "transforms": lambda: check_transforms(photos, device),
        "throughput": lambda: check_throughput(photos, device),
        "votes": lambda: check_votes(photos, device),
        "chunks": lambda: check_chunks(photos, device),
        "model side": lambda: check_model_side(photos, device),
        "run": lambda: check_run(device.type),
        "peers": lambda: check_peers(photos, device),
        "roofline": lambda: check_roofline(photos, device),
        "capture": lambda: check_capture(photos, device),
        "loader": lambda: check_loader(device),
        "sanitizer": lambda: check_sanitizer(_END - (time.monotonic() - started)),
    }
    results: list[Check] = []
    for name, part in parts.items():
        for check in _guarded(name, part, started):
            results.append(check)
            print(f"{'ok  ' if check[1] else 'FAIL'} {check[0]}: {check[2]}", flush=True)
            lines = [{"check": title, "passed": passed, "figures": figures} for title, passed, figures in results]
            Path("gpu-check.json").write_text(json.dumps({"hardware": describe(), "checks": lines}, indent=2) + "\n")
    _print_table(results)
    return 0 if all(passed for _, passed, _ in results) else 1


def _print_table(results: list[Check]) -> None:
    table = Table("check", "", "figures", box=None)
    for title, passed, figures in results:
        table.add_row(title, "ok" if passed else "FAIL", figures)
    Console(width=180).print(table)
    print(f"{sum(passed for _, passed, _ in results)} of {len(results)} passed; written to gpu-check.json")


def _guarded(name: str, part: Callable[[], Iterator[Check]], started: float) -> Iterator[Check]:
    """A part's checks; an error ends the part and not the others, and what no time is left for is said."""
    if time.monotonic() - started > _SECONDS:
        yield name, False, f"not run: {_SECONDS} seconds were over"
        return
    try:
        yield from part()
    except Exception as error:  # one broken part must not hide what the others find
        yield name, False, f"{type(error).__name__}: {error}".splitlines()[0]


def check_kernels(seconds: float) -> Iterator[Check]:
    """The tests of every kernel, on the GPU in place of the interpreter."""
    if not Path("tests").is_dir():
        yield "kernels", True, "skipped: run from a checkout, where the tests are"
        return
    yield _pytest("kernels against their references", seconds, [])


def check_sanitizer(seconds: float) -> Iterator[Check]:
    """One small shape a kernel under NVIDIA's memory checker."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or not Path("tests").is_dir():
        yield "compute-sanitizer", True, "skipped: not installed" if tool is None else "skipped: no tests here"
        return
    yield _pytest("compute-sanitizer", seconds, [tool, "--error-exitcode", "9"], "-k", "rows_of_a_buffer or steps")


def _pytest(name: str, seconds: float, before: list[str], *selection: str) -> Check:
    command = [*before, sys.executable, "-m", "pytest", "--gpu", "-m", "interpreter", "-q", *selection, "tests"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return name, False, f"not finished after {seconds:.0f} seconds"
    lines = [line for line in ran.stdout.splitlines() if line.startswith("FAILED") or " passed" in line]
    return name, ran.returncode == 0, "; ".join(lines[-8:]) or ran.stdout[-300:]


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
    classifier, images, streams = _subject(photos, device)
    eot = EOT(samples=16, chunk=128)
    goal = Untargeted(classifier(images).argmax(1))

    def seconds(defense: str) -> float:
        defended = DefendedClassifier(classifier, build_defense(defense))
        return _seconds(lambda: eot.estimate(defended, images, goal, cross_entropy, streams))

    bare = seconds("identity")
    for defense in _JUDGED:
        torch.cuda.reset_peak_memory_stats()
        own = seconds(defense)
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures = f"{16 * len(images) / own:.0f} gradients/s, {own / bare:.2f} of the bare model's time, {peak:.1f} GiB"
        yield f"EOT-16 behind {defense}", True, figures


def check_votes(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """Votes of 100 predictions over the bare model's forward passes."""
    classifier, images, _ = _subject(photos, device)
    for defense in ("identity", *_JUDGED):
        defended = DefendedClassifier(classifier, build_defense(defense))
        own = _seconds(lambda defended=defended: majority_vote(defended, images, 100, chunk=256))  # type: ignore[misc]
        if defense == "identity":
            bare = own
        yield (
            f"vote behind {defense}",
            True,
            f"{100 * len(images) / own:.0f} predictions/s, {own / bare:.2f} of the bare model's time",
        )


def check_chunks(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """A classifier's own mean over draws, and its gradient: chunk by chunk, and computed again in backward, as in one pass."""
    classifier, images, _ = _subject(photos, device)
    results = []
    for settings in ({}, {"chunk": len(images)}, {"chunk": len(images), "checkpoint": True}, {"chunk": "auto"}):
        defended = DefendedClassifier(
            classifier, build_defense("rotation"), randomness="fixed", samples=4, **settings
        )  # fmt: skip
        leaf = images.clone().requires_grad_()
        logits = defended(leaf)
        results.append((logits.detach(), *torch.autograd.grad(logits.square().sum(), leaf)))
    whole = results.pop(0)
    for name, found in zip(("in chunks", "computed again", "of the memory's size"), results, strict=True):
        apart = max(float((own - one).norm() / one.norm()) for own, one in zip(found, whole, strict=True))
        yield f"mean of draws {name}", apart <= 1e-3, f"{apart:.1e} of the norm apart from one pass"


def check_model_side(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """Logits and gradients of defenses inside the classifier, twice: the same draws must give the same bits."""
    classifier, images, streams = _subject(photos, device)
    for call in ("activation_pruning", "kwta(fraction=0.2)"):
        defended = DefendedClassifier(classifier, build_defense(call))
        results = []
        for _ in range(2):
            leaf = images.clone().requires_grad_()
            logits = defended.logits(leaf, streams)
            results += [logits.detach(), *torch.autograd.grad(logits.square().sum(), leaf)]
        apart = sum(int((first != second).sum()) for first, second in zip(results[:2], results[2:], strict=True))
        finite = all(bool(value.isfinite().all()) for value in results)
        yield (
            f"bits of {call}",
            apart == 0 and finite,
            f"{apart} values differ, {'all' if finite else 'not all'} finite",
        )


def check_run(device: str) -> Iterator[Check]:
    """A small evaluation twice: the same records; and what its estimate says beside what it took."""
    settings = Settings(defense="bart(k=2)", attack="pgd(steps=2)", eot=2, votes=4)
    [plan] = assemble(
        [settings], model="efficientnet_lite0", data="samples", limit=2, batch=1, chunk="4", device=device
    )
    cost = estimate([plan], [0])
    with tempfile.TemporaryDirectory() as folder:
        runs = [RunDirectory(Path(folder) / name) for name in ("first", "second")]
        summaries = [run(plan, each.path) for each in runs]
        first, second = ([{**record, "seconds": 0} for record in each.read_images()] for each in runs)
    took = summaries[1]["seconds"]
    yield (
        "a run twice",
        first == second,
        f"{took:.2f} s, at most {cost.seconds:.2f} s and {cost.bytes / 1e9:.2f} GB estimated",
    )


def check_peers(photos: Tensor, device: torch.device) -> Iterator[Check]:
    """PGD-5 × EOT-16 in other libraries' loops, over ours."""
    classifier, images, _ = _subject(photos, device)
    defended = DefendedClassifier(classifier, build_defense("rotation"))
    labels = classifier(images).argmax(1)
    budget = Budget(8 / 255, 5, 2 / 255, 16)
    attack = PGD(eps=budget.eps, steps=5, step_size=budget.step_size, gradient=EOT(samples=16, chunk=128))
    ours = _seconds(lambda: attack(defended, images, labels))
    for name, package, peer in (
        ("torchattacks", "torchattacks", torchattacks_eotpgd),
        ("foolbox", "foolbox", foolbox_eot),
        ("ART", "art", art_pgd),
    ):
        if find_spec(package) is None:
            yield name, True, "skipped: not installed"
            continue
        theirs = _seconds(lambda peer=peer: peer(defended, images, labels, budget))  # type: ignore[misc]
        yield name, True, f"{theirs / ours:.1f} times our {ours:.2f} s"


def check_roofline(photos: Tensor, device: torch.device, floats: int = 1 << 28) -> Iterator[Check]:
    """Images a second of every transform, and how near reading and writing each image once comes to a plain copy."""
    block = torch.empty(floats, device=device)
    copy = 2 * block.nbytes / _seconds(lambda: block.clone())
    yield "copy", True, f"{copy / 1e12:.2f} TB/s"
    images = photos.to(device).repeat(8, 1, 1, 1)
    ids = torch.arange(len(images))
    streams = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    for member in BaRT().members:
        params = {key: carry(value, device) for key, value in member.sample(streams, images.shape).items()}
        forward = _seconds(lambda own=member, params=params: own.transform(images, params))  # type: ignore[misc]
        both = _seconds(lambda own=member: _forward_backward(own, images, streams))  # type: ignore[misc]
        share = 2 * images.nbytes / forward / copy
        yield (
            f"speed of {member.name}",
            True,
            f"{len(images) / forward:.0f} images/s forward, {len(images) / both:.0f} with gradient, {share:.2f} of a copy",
        )


def check_capture(
    photos: Tensor, device: torch.device, bart: BaRT = _BART, capture: Capture | None = None
) -> Iterator[Check]:
    """A defended gradient as one CUDA graph, replayed on other programs and held against the schedule; then every transform."""
    capture = capture or _graph
    classifier, images, streams = _subject(photos, device)
    fixed = replace(bart, launches="fixed")
    later = replace(streams, queries=streams.queries + 1)

    def gradient(defense: BaRT, params: Params) -> tuple[Tensor, Tensor]:
        leaf = images.detach().requires_grad_()
        out = defense.transform(leaf, params)
        return out.detach(), torch.autograd.grad(classifier(out).logsumexp(1).sum(), leaf)[0]

    tables = {key: carry(value, device) for key, value in bart.sample(streams, images.shape).items()}
    replay, (out, slope) = capture(lambda: gradient(fixed, tables))

    def replayed() -> None:
        for key, value in bart.sample(later, images.shape).items():
            tables[key].copy_(carry(value, device), non_blocking=True)
        replay()

    replayed()
    expected, expected_slope = gradient(bart, bart.sample(later, images.shape))
    apart = float((slope - expected_slope).abs().max() / expected_slope.abs().max())
    same = torch.equal(out, expected)
    scheduled = _seconds(lambda: gradient(bart, bart.sample(later, images.shape)))
    figures = f"images {'equal' if same else 'DIFFER'}, gradients apart by {apart:.2g} of the largest; "
    yield (
        f"gradient behind {bart.name}, captured",
        same and apart <= _REPLAYED,
        f"{figures}{1e3 * _seconds(replayed):.1f} ms replayed, {1e3 * scheduled:.1f} ms scheduled",
    )
    yield from _check_each_captured(images, streams, bart, capture)


def _check_each_captured(images: Tensor, streams: Draws, bart: BaRT, capture: Capture) -> Iterator[Check]:
    refused = []
    for member in bart.members:
        alone = BaRT(k=1, transforms=(member,), launches="fixed")
        tables = {key: carry(value, images.device) for key, value in alone.sample(streams, images.shape).items()}
        try:
            replay, (out,) = capture(partial(_transformed, alone, images, tables))
            replay()
        except (RuntimeError, InputError) as error:
            refused.append(f"{member.name} ({type(error).__name__})")
            continue
        if not torch.equal(out, replace(alone, launches="scheduled").transform(images, tables)):
            yield f"replay of {member.name}", False, "differs from the call"
    yield "capture of every transform", not refused, f"not captured: {', '.join(refused) or 'none'}"


def _transformed(transform: Transform, images: Tensor, params: Params) -> tuple[Tensor]:
    return (transform.transform(images, params),)


def _graph(work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Work as a CUDA graph: what replays it, and the tensors that hold its results after each replay."""
    # Once outside of the capture, on another stream, as PyTorch asks: kernels are compiled and constants sent.
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph.replay, results


def check_loader(device: torch.device) -> Iterator[Check]:
    """DALI's decoder on the GPU against its decoder on the CPU."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        yield "DALI", True, "skipped: not installed"
        return
    source = open_source("samples")
    feed = Feed(batch=len(source), size=(224, 224))
    ours, theirs = (
        next(iter(open_loader(source, feed, device=place, backend="dali"))).images.cpu() for place in (device, "cpu")
    )
    apart = (ours - theirs).abs()
    figures = f"mean difference {float(apart.mean()):.2g}, largest {float(apart.max()):.2g}"
    yield "DALI on the GPU against the CPU", float(apart.mean()) < 0.01, figures


def _subject(photos: Tensor, device: torch.device) -> tuple[Classifier, Tensor, Draws]:
    images = photos.to(device)
    ids = torch.arange(len(images))
    streams = Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))
    return load_model("efficientnet_lite0", device=device), images, streams


def _seconds(case: Callable[[], object]) -> float:
    """Median seconds of a call, the device's work included."""

    def whole() -> None:
        case()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return interleaved({"case": whole}, rounds=5)["case"].median


if __name__ == "__main__":
    sys.exit(main())
