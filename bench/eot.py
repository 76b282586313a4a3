"""`cannonade bench eot`: how near the mean of m draws comes to the gradient of the limit, and to what theory says of it.

With g the mean and Σ the covariance of the gradient of one draw, and τ = tr Σ/‖g‖², the mean of m draws has
E‖ĝ‖² = ‖g‖²(1 + τ/m), so its cosine with g is about (1 + τ/m)^−½, where ‖ĝ‖ varies little. The averages `logits` and `probs`
have limits of their own, ∇L(E f) and ∇L(log E softmax f), and a bias of order 1/m towards them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from cannonade.attacks.eot import EOT
from cannonade.attacks.goals import Untargeted
from cannonade.attacks.losses import LOSSES
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase

AVERAGES = ("loss", "logits", "probs")


@dataclass(frozen=True)
class Quality:
    """The estimate of m draws at one image.

    Attributes:
        average: what is averaged.
        image: its id.
        samples: m.
        cosine: mean over the repetitions with the reference.
        error: standard error of that mean.
        tau: τ, for the average `loss`; else 0.
        predicted: (1 + τ/m)^−½·(1 + τ/M)^−½, the second factor for the M draws of the reference; `loss` only, else 0.
        spread: standard deviation of ‖gradient of one draw‖ over its mean: what the prediction takes to be small.
        bias: ‖E ĝ − G‖/‖G‖, less what the finite numbers of repetitions and of the reference's draws add.
    """

    average: str
    image: int
    samples: int
    cosine: float
    error: float
    tau: float
    predicted: float
    spread: float
    bias: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    defended: DefendedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    loss: str = "cross_entropy",
    samples: Sequence[int] = (1, 4, 16, 64),
    reference: int = 10_000,
    repetitions: int = 200,
    chunk: int = 200,
) -> Iterator[Quality]:
    """For each image, each average and each m.

    Args:
        defended: the stochastic classifier.
        images: [N, 3, H, W] in [0, 1].
        labels: [N] int64, the true labels.
        loss: name of the loss.
        samples: values of m.
        reference: M, draws of the reference, in a phase of their own.
        repetitions: estimates of each m, all of disjoint draws.
        chunk: rows of one pass.
    """
    for row in range(len(images)):
        goal = Untargeted(labels[row : row + 1])
        single = _many(defended, images[row], labels[row], EOT(chunk=chunk), loss, row, 0, repetitions * max(samples))
        for average in AVERAGES:
            eot = EOT(samples=reference, average=average, chunk=chunk)  # type: ignore[arg-type]
            draws = _draws(defended, Phase.SELECTION, row, torch.zeros(1, dtype=torch.int64))
            limit = eot.estimate(defended, images[row : row + 1], goal, LOSSES[loss], draws).gradient.flatten().double()
            for m in samples:
                if average == "loss":
                    estimates = single[: repetitions * m].view(repetitions, m, -1).double().mean(1)
                else:
                    own = EOT(samples=m, average=average, chunk=chunk)  # type: ignore[arg-type]
                    estimates = _many(defended, images[row], labels[row], own, loss, row, m, repetitions).double()
                yield _quality(average, row, m, estimates, limit, single.double(), reference)


def _quality(
    average: str, image: int, m: int, estimates: Tensor, limit: Tensor, single: Tensor, reference: int
) -> Quality:
    repetitions = len(estimates)
    cosines = torch.nn.functional.cosine_similarity(estimates, limit[None], dim=1)
    norms = single.norm(dim=1)
    size = limit.square().sum()
    # The reference's own ‖ĝ‖² has tr Σ/M too much.
    trace = single.var(0).sum()
    tau = float(trace / (size - trace / reference)) if average == "loss" else 0.0
    own = estimates.var(0).sum()
    off = (estimates.mean(0) - limit).square().sum() - own / repetitions - own * m / reference
    return Quality(
        average=average,
        image=image,
        samples=m,
        cosine=float(cosines.mean()),
        error=float(cosines.std()) / sqrt(repetitions),
        tau=tau,
        predicted=((1 + tau / m) * (1 + tau / reference)) ** -0.5 if average == "loss" else 0.0,
        spread=float(norms.std() / norms.mean()),
        bias=float((off.clamp(min=0) / size).sqrt()),
    )


def _many(
    defended: DefendedClassifier,
    image: Tensor,
    label: Tensor,
    eot: EOT,
    loss: str,
    row: int,
    block: int,
    count: int,
) -> Tensor:
    """`count` estimates at one image, each from draws of its own: [count, P]. Blocks share no draws."""
    found = []
    size = max(1, int(eot.chunk) // eot.samples)
    for start in range(0, count, size):
        number = torch.arange(start, min(start + size, count))
        draws = _draws(defended, Phase.ATTACK, row, (block << 24) + number * eot.samples)
        images = image.expand(len(number), *image.shape)
        goal = Untargeted(label.expand(len(number)))
        found.append(eot.estimate(defended, images, goal, LOSSES[loss], draws).gradient.flatten(1))
    return torch.cat(found)


def _draws(defended: DefendedClassifier, phase: Phase, row: int, queries: Tensor) -> Draws:
    return Draws(seed=defended.seed, phase=phase, images=torch.full_like(queries, row), queries=queries)
