"""`cannonade bench`: what the engine claims about speed, measured on this machine."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cannonade.cli.app import app, console
from cannonade.errors import InputError

bench = typer.Typer(help="Speed, memory and agreement with what the engine is compared to.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command()
def transforms(
    only: Annotated[
        list[str] | None, typer.Option(help="A transform; may be given several times. All by default.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of one timed call.")] = 32,
    side: Annotated[int, typer.Option(help="Side of the photos.")] = 224,
    draws: Annotated[
        int, typer.Option(help="Parameter sets per image in the comparison with the oracle; 0 skips it.")
    ] = 8,
    rounds: Annotated[int, typer.Option(help="How often each side is timed.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Every BaRT transform against its oracle: difference, then ms an image, ratio and peak memory."""
    from importlib.util import find_spec

    from rich.table import Table

    missing = [name for name in ("skimage", "scipy", "pywt") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"bench needs what it compares with, {', '.join(missing)} not installed: pip install 'cannonade[bench]'"
        )
    from cannonade.bench.hardware import describe
    from cannonade.bench.transforms import expected_cost, mean_ratio, measure
    from cannonade.data.sources import open_source

    source = open_source("samples").limited(8)
    photos = (source.load(source.items, (side, side)) * 255).round() / 255
    rows = []
    table = Table(
        "", "difference", "noisy", "effect", "forward", "+ backward", "by PyTorch", "oracle", "ratio", "memory", box=None
    )  # fmt: skip
    for row in measure(photos, only, batch=batch, draws=draws, rounds=rounds):
        rows.append(row)
        low, high = row.ratio_quartiles
        table.add_row(
            row.name,
            _difference(row.clean),
            _difference(row.noisy),
            "—" if row.clean is None or row.noisy is None else f"{row.clean.effect:.2g} {row.noisy.effect:.2g}",
            f"{row.forward:.2f}",
            f"{row.backward:.2f}",
            f"{row.reference[0]:.2f} {row.reference[1]:.2f}",
            f"{row.oracle:.2f}",
            f"{row.ratio:.2f} [{low:.2f}–{high:.2f}]",
            "—" if row.memory is None else f"{row.memory:.1f}×",
        )
        console.print(f"{row.name}: {row.forward:.2f} ms, oracle {row.oracle:.2f} ms", highlight=False)
    Console(width=150).print(table)  # a table of figures is of no use folded
    console.print("mean and largest difference in units of [0, 1]; ms an image; memory in sizes of the input batch")
    mean, cost = mean_ratio(rows), expected_cost(rows)
    if mean is not None:
        console.print(f"geometric mean of the ratios: {mean:.2f}", highlight=False)
    if cost is not None:
        console.print(
            f"BaRT(5) by its parts, Σ p·ms: {cost[0]:.2f} forward, {cost[1]:.2f} with gradient", highlight=False
        )
    if out is not None:
        out.write_text(json.dumps({"hardware": describe(), "rows": [row.as_json() for row in rows]}, indent=2) + "\n")


def _difference(result: Any) -> str:
    return "—" if result is None else f"{result.mean:.1e} {result.max:.1e}"


@bench.command()
def attacks(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'rotation(degrees=30)'.")],
    attack: Annotated[str, typer.Option(help="A pgd call in linf: eps, steps and step size of all.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    eot: Annotated[int, typer.Option(help="m, draws of a step.")] = 10,
    votes: Annotated[int, typer.Option(help="n, predictions of a vote, and of the mean loss.")] = 100,
    limit: Annotated[int, typer.Option(help="Images read; those the vote gets right are attacked.")] = 300,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Our attacks against other libraries' on the same images, gradients and votes: success, loss, and what could be seen.

    Needs the libraries: those of tests/peers.txt. Success should lie between 20 and 80 %: choose eps so.
    """
    import torch
    from rich.table import Table

    from cannonade.attacks.pgd import PGD
    from cannonade.bench.attacks import Comparison, Judged, compare
    from cannonade.bench.hardware import describe
    from cannonade.bench.peers import Budget
    from cannonade.draws import Phase
    from cannonade.evaluation.subject import open_subject
    from cannonade.spec import build
    from cannonade.voting import majority_vote

    base: PGD = build(attack, {"pgd": PGD}, "attack")
    budget = Budget(base.eps, base.steps, base.step_size, eot)
    subject = open_subject(
        model=model, data=data, defense=defense, weights=weights, limit=limit, seed=seed, device="cpu"
    )
    items, images, ids = next(subject.batches(limit))
    labels = torch.tensor([item.label for item in items])
    vote = majority_vote(subject.defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids)
    right = vote.labels == labels
    if not right.any():
        raise InputError(f"the vote gets none of {len(images)} images right, so there is nothing to attack")
    console.print(f"{int(right.sum())} of {len(images)} images voted right, and attacked", highlight=False)

    def progress(name: str, judged: Judged) -> None:
        success, loss = float(judged.success.double().mean()), float(judged.loss.mean())
        console.print(f"{name}: {100 * success:.1f} %, mean loss {loss:.4f}", style="dim", highlight=False)

    rows: list[Comparison] = list(
        compare(subject.defended, images[right], labels[right], budget, votes=votes, progress=progress)
    )
    table = Table("first", "second", "success %", "only", "p", "mean loss", "p", "seen", "first weaker", box=None)
    for row in rows:
        table.add_row(
            row.first, row.second,
            " / ".join(f"{100 * rate:.1f}" for rate in row.success),
            " / ".join(map(str, row.only)), f"{row.p_success:.2g}",
            " / ".join(f"{value:.4f}" for value in row.loss), f"{row.p_loss:.2g}",
            f"{100 * row.seen:.1f} % {row.seen_loss:.3f}", "yes" if row.weaker else "no",
        )  # fmt: skip
    Console(width=170).print(table)
    console.print(
        "seen: the difference in success and in loss that would have been found with probability .8 at level .05"
    )
    if out is not None:
        record = {"hardware": describe(), "budget": vars(budget), "defense": defense}
        out.write_text(json.dumps(record | {"rows": [row.as_json() for row in rows]}, indent=2) + "\n")


@bench.command()
def eot(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.1)'.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, margin or dlr.")] = "margin",
    reference: Annotated[int, typer.Option(help="M, draws of the reference.")] = 10_000,
    repetitions: Annotated[int, typer.Option(help="Estimates of each m.")] = 200,
    limit: Annotated[int, typer.Option(help="Images.")] = 3,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """The gradient of m draws against that of many, for each average: cosine, bias, and what theory predicts."""
    import torch
    from rich.table import Table

    from cannonade.bench.eot import measure
    from cannonade.bench.hardware import describe
    from cannonade.evaluation.subject import open_subject

    subject = open_subject(
        model=model, data=data, defense=defense, weights=weights, limit=limit, seed=seed, device="cpu"
    )
    items, images, _ = next(subject.batches(limit))
    labels = torch.tensor([item.label for item in items])
    table = Table("average", "image", "m", "cosine", "predicted", "ratio", "tau", "norm spread", "bias", box=None)
    rows = []
    for row in measure(subject.defended, images, labels, loss=loss, reference=reference, repetitions=repetitions):
        rows.append(row)
        known = row.average == "loss"
        table.add_row(
            row.average, str(row.image), str(row.samples), f"{row.cosine:.4f} ± {row.error:.4f}",
            f"{row.predicted:.4f}" if known else "—", f"{row.cosine / row.predicted:.3f}" if known else "—",
            f"{row.tau:.1f}" if known else "—", f"{row.spread:.2f}", f"{row.bias:.3f}",
        )  # fmt: skip
    Console(width=150).print(table)
    if out is not None:
        record = {"hardware": describe(), "defense": defense, "loss": loss, "reference": reference}
        out.write_text(json.dumps(record | {"rows": [row.as_json() for row in rows]}, indent=2) + "\n")


@bench.command()
def frameworks(
    defense: Annotated[
        list[str] | None, typer.Option(help="May be given several times; rotation and BaRT of three by default.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")
    ] = "efficientnet_lite0",
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")] = "samples",
    attack: Annotated[
        str, typer.Option(help="A pgd call in linf: eps, steps and step size of all.")
    ] = "pgd(eps=4/255, steps=10, step_size=1/255)",
    eot: Annotated[int, typer.Option(help="m, draws of a step.")] = 5,
    votes: Annotated[int, typer.Option(help="n, predictions of a vote.")] = 100,
    limit: Annotated[int, typer.Option(help="Images read; those the vote gets right are attacked.")] = 20,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Other frameworks' attacks on our classifier, and ours called as theirs: success by vote, luck, seconds.

    Needs the frameworks: those of tests/peers.txt.
    """
    import torch
    from rich.table import Table

    from cannonade.attacks.pgd import PGD
    from cannonade.bench.frameworks import measure
    from cannonade.bench.hardware import describe
    from cannonade.bench.peers import Budget
    from cannonade.draws import Phase
    from cannonade.evaluation.subject import open_subject
    from cannonade.spec import build
    from cannonade.voting import majority_vote

    base: PGD = build(attack, {"pgd": PGD}, "attack")
    budget = Budget(base.eps, base.steps, base.step_size, eot)
    record: dict[str, Any] = {"hardware": describe(), "model": model, "attack": attack, "eot": eot, "votes": votes}
    for call in defense or ("rotation(degrees=90)", "bart(k=3)"):
        subject = open_subject(model=model, data=data, defense=call, weights=None, limit=limit, seed=seed, device="cpu")
        items, images, ids = next(subject.batches(limit))
        labels = torch.tensor([item.label for item in items])
        right = majority_vote(subject.defended, images, votes, phase=Phase.BENIGN_VOTE, ids=ids).labels == labels
        if not right.any():
            raise InputError(f"the vote gets none of {len(images)} images right, so there is nothing to attack")
        console.print(f"{call}: {int(right.sum())} of {len(images)} images voted right, and attacked", highlight=False)
        rows = []
        for row in measure(subject.defended, images[right], labels[right], budget, votes=votes):
            console.print(f"{row.framework}, {row.direction}: {100 * row.success:.0f} %", style="dim", highlight=False)
            rows.append(row)
        table = Table("framework", "attack", "what was run", "success %", "lucky %", "seconds", box=None)
        for row in rows:
            shares = f"{100 * row.success:.1f}", f"{100 * row.lucky:.1f}"
            table.add_row(row.framework, row.direction, row.what, *shares, f"{row.seconds:.1f}")
        Console(width=120).print(table)
        record[call] = {"images": int(right.sum()), "rows": [row.as_json() for row in rows]}
    if out is not None:
        out.write_text(json.dumps(record, indent=2) + "\n")


@bench.command()
def votes(
    model: Annotated[str, typer.Option(help="Classifier: efficientnet_lite0, a torchvision name, …")],
    data: Annotated[str, typer.Option(help="'samples', a folder of class/image files, or an .npz.")],
    defense: Annotated[str, typer.Option(help="Such as 'smoothing(sigma=0.1)'.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    restrict: Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")] = False,
    n: Annotated[int, typer.Option(help="Predictions of a full vote.")] = 500,
    alpha: Annotated[float, typer.Option(help="Of the sequential rules.")] = 1e-3,
    limit: Annotated[int, typer.Option(help="Images.")] = 200,
    batch: Annotated[int, typer.Option(help="Images in memory at once.")] = 50,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Full votes on real images, replayed under every stopping rule: votes used, and disagreements with the full vote."""
    import torch
    from rich.table import Table

    from cannonade.bench.hardware import describe
    from cannonade.bench.votes import RULES, cast_votes, compare, count
    from cannonade.evaluation.subject import open_subject

    subject = open_subject(
        model=model,
        data=data,
        defense=defense,
        weights=weights,
        limit=limit,
        seed=seed,
        device="cpu",
        restrict=restrict,
    )
    cast, labels = [], []
    for items, images, ids in subject.batches(batch):
        cast.append(cast_votes(subject.defended, images, ids, n))
        labels += [item.label for item in items]
        console.print(f"{len(labels)} of {len(subject.source)} images", style="dim", highlight=False)
    found = torch.cat(cast)
    winners = count(found, subject.defended.num_classes).argmax(1)
    table = Table("leader's share", "images", *RULES, "saved", box=None)
    bins = list(compare(found, subject.defended.num_classes, alpha=alpha))
    for row in bins:
        table.add_row(
            f"{row.low:.2f} – {row.high:.2f}", str(row.images),
            *(f"{row.used[rule]:.1f} ({row.disagreements[rule]} differ)" for rule in RULES),
            f"{n / row.used['sequential']:.1f}×",
        )  # fmt: skip
    Console(width=120).print(table)
    right = int((winners == torch.tensor(labels)).sum())
    console.print(f"right by all {n} votes: {right} of {len(labels)}", highlight=False)
    if out is not None:
        record = {"hardware": describe(), "defense": defense, "n": n, "alpha": alpha, "right": right}
        out.write_text(json.dumps(record | {"bins": [row.as_json() for row in bins]}, indent=2) + "\n")


@bench.command()
def loader(
    data: Annotated[str, typer.Option(help="A folder of class/image files, or 'samples'.")],
    side: Annotated[int, typer.Option(help="Side of the images delivered.")] = 224,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = 1000,
    batch: Annotated[int, typer.Option(help="Images of a batch.")] = 64,
    workers: Annotated[int, typer.Option(help="Threads of DALI, and worker processes of the others.")] = 2,
    rounds: Annotated[int, typer.Option(help="How often each side is timed; 0 times nothing.")] = 5,
    model: Annotated[
        str | None, typer.Option(help="Classifier whose clean accuracy is compared, such as efficientnet_lite0.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")] = None,
    restrict: Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """DALI, the portable loader and torchvision's DataLoader on the same files: pixels, accuracy, images a second."""
    from rich.table import Table

    from cannonade.bench.hardware import describe
    from cannonade.bench.loader import as_json, check, judge, measure, ratios
    from cannonade.data.sources import open_source
    from cannonade.models import load_model

    source = open_source(data)
    classes = sorted({item.label for item in source.items}) if restrict else None
    source = (source if classes is None else source.numbered(classes)).limited(limit)
    size, settings = (side, side), {"batch": batch, "workers": workers}
    differences = check(source, size, **settings)
    pixels = Table("", "augmented", "mean difference", "largest", box=None)
    for each in differences:
        names = f"{each.first}, {each.second}"
        pixels.add_row(names, _yes(each.augmented), f"{255 * each.mean:.4f}/255", f"{255 * each.max:.2f}/255")
    console.print(pixels)
    accuracies = []
    if model is not None:
        classifier = load_model(model, weights=weights, classes=classes)
        source.check_labels(classifier.num_classes)
        accuracies = list(judge(classifier, source, size, **settings))
        right = Table("", "right", "classified otherwise than with DALI", box=None)
        for row in accuracies:
            share = f"{row.right} of {row.images}, {100 * row.right / row.images:.2f} %"
            right.add_row(row.side, share, str(row.changed))
        console.print(right)
    speeds = list(measure(source, size, rounds=rounds, **settings)) if rounds else []
    if speeds:
        table = Table("", "augmented", "images/s", "quartiles", box=None)
        for speed in speeds:
            quartiles = " – ".join(f"{value:.0f}" for value in speed.quartiles)
            table.add_row(speed.side, _yes(speed.augmented), f"{speed.median:.0f}", quartiles)
        console.print(table)
        for name, ratio in ratios(speeds).items():
            console.print(f"{name}: {ratio:.2f} times torchvision", highlight=False)
    if out is not None:
        record = {"hardware": describe(), "side": side, "images": len(source), "model": model} | settings
        figures: dict[str, list[Any]] = {"pixels": differences, "accuracy": accuracies, "speed": speeds}
        record |= {name: as_json(rows) for name, rows in figures.items()}
        out.write_text(json.dumps(record, indent=2) + "\n")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@bench.command()
def finetune(
    data: Annotated[str, typer.Option(help="A folder of class/image files, or 'samples'.")],
    defense: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times; smoothing, bart(k=5), bart_gao(k=6) by default."),
    ] = None,
    model: Annotated[str, typer.Option(help="Network that is trained, from random weights.")] = "resnet34",
    side: Annotated[int, typer.Option(help="Side of the images.")] = 224,
    limit: Annotated[int | None, typer.Option(help="At most so many images, spread evenly over the data.")] = 128,
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    workers: Annotated[int, typer.Option(help="Of each side's loader; theirs also defend the images.")] = 2,
    rounds: Annotated[int, typer.Option(help="Passes over the images that are timed of each side.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Training on defended images, batched by us or image by image in the workers of a DataLoader: images a second."""
    from importlib.util import find_spec

    missing = [name for name in ("skimage", "scipy", "pywt") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"bench needs what it compares with, {', '.join(missing)} not installed: pip install 'cannonade[bench]'"
        )
    from rich.table import Table

    from cannonade.bench.finetune import check, measure
    from cannonade.bench.hardware import describe
    from cannonade.data.sources import open_source
    from cannonade.defenses import build_transform
    from cannonade.training.memory import keep_freed_memory

    keep_freed_memory()  # as `finetune` does; the other side's workers inherit it
    source = open_source(data)
    source = source.numbered(sorted(source.classes)).limited(limit)
    size, rows, apart = (side, side), [], {}
    table = Table("", "network", "ours", "quartiles", "image by image", "quartiles", "ratio", box=None)
    for call in defense or ("smoothing", "bart(k=5)", "bart_gao(k=6)"):
        apart[call] = check(source.limited(16), size, build_transform(call))
        for row in measure(source, size, call, model=model, batch=batch, workers=workers, rounds=rounds):
            rows.append(row)
            sides = (row.ours, row.ours_quartiles), (row.theirs, row.theirs_quartiles)
            figures = (
                text for median, ends in sides for text in (f"{median:.1f}", " – ".join(f"{x:.1f}" for x in ends))
            )
            table.add_row(row.defense, _yes(row.model), *figures, f"{row.ratio:.2f}")
        console.print(f"{call}: {_apart(apart[call])}", style="dim", highlight=False)
    console.print(table)
    console.print(f"images a second; network: trained, {model}; else the images were only made", highlight=False)
    if out is not None:
        record = {"hardware": describe(), "side": side, "images": len(source), "model": model, "batch": batch}
        record |= {"workers": workers, "difference": apart, "speed": [row.as_json() for row in rows]}
        out.write_text(json.dumps(record, indent=2) + "\n")


def _apart(difference: float | None) -> str:
    return "nothing but noise" if difference is None else f"noise aside, the sides are {255 * difference:.3f}/255 apart"


@bench.command()
def audit(
    only: Annotated[
        list[str] | None, typer.Option(help="Start of a kernel's name; may be given several times.")
    ] = None,
    arch: Annotated[list[int] | None, typer.Option(help="Compute capability, such as 90. All five by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Compile every Triton kernel without a GPU: registers, spills, shared memory, accesses, and predicted time.

    Of all kernels, it also says what BaRT's programs cost beside the gradient of the classifier, by the same predictions.

    Ends with status 1 where a kernel does not compile, spills, takes too much shared memory or breaks a rule.
    """
    from rich.table import Table

    from cannonade.bench.audit import ARCHITECTURES, audit_all, cases
    from cannonade.bench.budget import costs, expected_microseconds, model_microseconds
    from cannonade.kernels.backend import triton

    if triton is None:
        raise InputError("the audit compiles with Triton, which is not installed here: it is for Linux only")
    chosen = [case for case in cases() if not only or any(case.name.startswith(start) for start in only)]
    if not chosen:
        raise InputError(f"no kernel's name starts with {', '.join(only or ())}: see `cannonade bench audit`")
    table = Table(
        "kernel", "arch", "registers", "spilled", "shared", "accesses", "barriers", "bytes/px", "× least", "ops/px",
        "H100 µs", "of model", box=None,
    )  # fmt: skip
    bare = model_microseconds()
    found = list(audit_all([case.name for case in chosen], arch or ARCHITECTURES))
    for row in found:
        accesses = " ".join(f"{kind.replace(' ', '')}×{count}" for kind, count in row.accesses.items())
        table.add_row(
            row.name, str(row.architecture), str(row.registers), str(row.spilled), str(row.shared), accesses,
            str(row.barriers), f"{row.bytes_per_pixel:.1f}", f"{row.overhead:.2f}", f"{row.operations:.0f}",
            f"{row.microseconds:.2f}", f"{row.microseconds / bare:.1%}",
        )  # fmt: skip
    Console(width=180).print(table)
    console.print(
        "H100 µs: predicted for one 224×224 image from bytes and operations, not measured; of model: of the bare gradient of "
        f"EfficientNet-Lite0, {bare:.0f} µs by the same prediction",
        highlight=False,
    )
    if not only:
        programs = Table("transform", "p in BaRT(5)", "µs forward and backward", "of model", box=None)
        spent = costs()
        for cost in spent:
            figures = ("no launchers", "") if cost.microseconds is None else (
                f"{cost.microseconds:.1f}", f"{cost.microseconds / bare:.1%}"
            )  # fmt: skip
            programs.add_row(cost.name, f"{cost.probability:.3f}", *figures)
        console.print(programs)
        total = expected_microseconds(spent)
        missing = sum(cost.microseconds is None for cost in spent)
        without = f"; without {missing} transforms that have no launchers, so too little" if missing else ""
        console.print(
            f"BaRT(5): Σ p·µs = {total:.1f} µs an image, {total / bare:.1%} of the bare gradient, predicted{without}",
            highlight=False,
        )
    if out is not None:
        out.write_text(json.dumps([row.as_json() for row in found], indent=2) + "\n")
    broken = [row for row in found if row.faults]
    for row in broken:
        console.print(f"{row.name} on sm_{row.architecture}: {'; '.join(row.faults)}", style="red", highlight=False)
    console.print(f"{len(found) - len(broken)} of {len(found)} pass", highlight=False)
    if broken:
        raise typer.Exit(1)


@bench.command()
def cluster(
    images: Annotated[int, typer.Option(help="Of the data set.")] = 50_000,
    gradients: Annotated[int, typer.Option(help="k·m of each image.")] = 20_000,
    batch: Annotated[list[int] | None, typer.Option(help="Images of a batch; several for several columns.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Processes; several for several columns.")] = None,
    rate: Annotated[float, typer.Option(help="Gradients a second of one worker: an assumption.")] = 1000.0,
    latency: Annotated[
        list[float] | None, typer.Option(help="Seconds that the file system adds to an operation; several for several.")
    ] = None,
    deaths: Annotated[int, typer.Option(help="Workers that die.")] = 10,
    folder: Annotated[Path | None, typer.Option(help="Where the directory's operations are timed.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """What a run directory must bear that many workers share: a simulation with the measured costs of its operations."""
    from itertools import product

    from cannonade.bench.cluster import Cluster, measure_costs, simulate, table

    courses = []
    for count, size, delay in product(workers or [1000], batch or [8], latency or [0.0]):
        plan = Cluster(
            images=images, gradients=gradients, batch=size, workers=count, rate=rate, latency=delay, deaths=deaths
        )
        costs = measure_costs(plan, folder)
        courses.append((plan, costs, simulate(plan, costs)))
        times = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in vars(costs).items())
        console.print(f"batch {size}: {times}", highlight=False)
    console.print(table((plan, course) for plan, _, course in courses), markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        rows = [
            {"cluster": vars(plan), "costs": vars(costs), "course": vars(course)} for plan, costs, course in courses
        ]
        out.write_text(json.dumps(rows, indent=2) + "\n")


@bench.command()
def overhead(
    data: Annotated[str, typer.Option(help="Images, such as 'samples'.")] = "samples",
    model: Annotated[list[str] | None, typer.Option(help="A network; several for several.")] = None,
    defense: Annotated[
        list[str] | None, typer.Option(help="Compared with the bare model; several for several.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images of a pass.")] = 16,
    side: Annotated[int, typer.Option(help="Of the images.")] = 224,
    rounds: Annotated[int, typer.Option(help="How often each side is timed.")] = 5,
    peers: Annotated[bool, typer.Option(help="Also time torchattacks and the authors' manner.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Defended gradients and predictions against those of the bare model, and against other ways to compute them."""
    from rich.table import Table

    from cannonade.bench.hardware import describe
    from cannonade.bench.overhead import Row, Sides
    from cannonade.data.sources import open_source

    source = open_source(data).limited(batch)
    images = source.load(source.items, (side, side))
    images = images[[number % len(images) for number in range(batch)]]
    found: list[tuple[str, Row]] = []
    for name in model or ["efficientnet_lite0"]:
        sides = Sides(name, images, rounds)
        for call in defense or ["smoothing", "rotation", "bart_gao(k=6)", "bart(k=5)"]:
            found += [(name, row) for row in sides.compare(call)]
            if peers:
                found.append((name, sides.against_torchattacks(call)))
                if call.startswith("bart"):
                    found += [(name, row) for row in sides.against_authors(call)]
    table = Table("model", "defense", "what", "ours ms", "quartiles", "other ms", "quartiles", "ours / other", box=None)
    for name, row in found:
        low, high = (
            " – ".join(f"{value:.3g}" for value in pair) for pair in (row.ours_quartiles, row.theirs_quartiles)
        )
        table.add_row(
            name, row.defense, row.what, f"{row.ours:.3g}", low, f"{row.theirs:.3g}", high, f"{row.ratio:.2f}"
        )
    console.print(table)
    if out is not None:
        record = {"hardware": describe(), "batch": batch, "side": side}
        rows = [{"model": name} | row.as_json() for name, row in found]
        out.write_text(json.dumps(record | {"rows": rows}, indent=2) + "\n")


@bench.command()
def compare(
    first: Annotated[Path, typer.Argument(help="JSON file of a bench, made with --out.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same bench.")],
) -> None:
    """Two files of one bench, figure by figure, with what differs in hardware, versions and settings."""
    from rich.markup import escape
    from rich.table import Table

    from cannonade.bench.compare import compare as compare_files

    found = compare_files(first, second)
    table = Table("row", "figure", "first", "second", "second / first", box=None)
    for change in found.changes:
        values = f"{change.first:.4g}", f"{change.second:.4g}", f"{change.ratio:.3f}"
        table.add_row(escape(change.row), escape(change.figure), *values)
    console.print(table)
    for name, there, here in found.context:
        console.print(f"{name}: {there} and {here}", highlight=False, markup=False, soft_wrap=True)
    for words, rows in (("only in the first", found.missing), ("only in the second", found.new)):
        for row in rows:
            console.print(f"{words}: {row}", highlight=False, markup=False, soft_wrap=True)
