"""Expectation over transformation: the gradient of a stochastic classifier, averaged over draws."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cannonade.attacks.goals import Goal
from cannonade.attacks.losses import Loss
from cannonade.attacks.reach import lost_gradient
from cannonade.chunking import Chunk, resolve_chunk, with_retreat
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.steps import add_draws_
from cannonade.spans import span


@dataclass(frozen=True)
class Estimate:
    """A gradient estimate for a batch.

    Attributes:
        gradient: [N, C, H, W], of what the attack maximises.
        objective: [N], its value.
        gradients: defended gradients that each image took.
        forwards: forward passes that each image took, those of the gradients included.
        chunk: rows of one pass, smaller than asked for after a retreat.
        reached: [N] bool, whether the prediction of every draw satisfied the goal; None where that was not looked at.
    """

    gradient: Tensor
    objective: Tensor
    gradients: int
    forwards: int
    chunk: int
    reached: Tensor | None = None


@dataclass(frozen=True)
class _Rows:
    """Rows start … stop−1 of the N·m of an estimate: row r is draw r // N of image r % N."""

    start: int
    stop: int
    images: Tensor
    draws: Draws

    def leaf(self, images: Tensor, requires_grad: bool = True) -> Tensor:
        """The image of each row, at which its gradient is taken."""
        with span("schedule"):
            return images[self.images].detach().requires_grad_(requires_grad)

    def add(self, total: Tensor, values: Tensor) -> None:
        """Add each row's value to its image's total; the rows that only fill the chunk are left out."""
        add_draws_(total, values[: self.stop - self.start], self.start)


@dataclass(frozen=True, kw_only=True)
class EOT:
    """Average over m independent draws of the defense, computed as one batch in chunks (paper, equation 2).

    Rows are added in ascending query order, so that only the model's own rounding depends on the chunk.

    Attributes:
        samples: m, the number of draws at each step.
        average: what is averaged. "loss": (1/m) Σ ∇L(f_j), the paper's; "logits": ∇L of the mean logits; "probs": ∇L of the
            mean probabilities. On a deterministic model all three are the same. In more than one chunk the last two take a
            second pass, whose m forwards are counted.
        common: common random numbers: every estimate takes the same m draws, the image's first. An attack then optimises
            against these m, which a vote never sees; without, every step has fresh ones.
        chunk: rows of one pass; "auto" finds them from a measured probe and halves them when memory runs out.

    Example:
        >>> EOT(samples=10, average="probs").queries
        10
    """

    samples: int = 1
    average: Literal["loss", "logits", "probs"] = "loss"
    common: bool = False
    chunk: Chunk = "auto"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        if self.average not in ("loss", "logits", "probs"):
            raise InputError(f"average must be 'loss', 'logits' or 'probs', got {self.average!r}")
        if self.chunk != "auto" and self.chunk < 1:
            raise InputError(f"chunk must be at least 1, or 'auto', got {self.chunk}")

    @property
    def queries(self) -> int:
        """Draws of an estimate: by so many queries an image's streams advance."""
        return self.samples

    def resolved(self, defended: DefendedClassifier, images: Tensor) -> "EOT":
        """The same estimator with a number for its chunk."""
        return replace(self, chunk=resolve_chunk(self.chunk, defended, images, len(images) * self.samples))

    def estimate(self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws) -> Estimate:
        """The averaged gradient at `images`.

        Args:
            defended: the classifier under attack.
            images: [N, C, H, W] in [0, 1], N ≥ 1.
            goal: of N images.
            loss: what the goal turns into an objective.
            draws: N streams, best on the host; draw j of an image is its stream j queries later.

        Raises:
            InputError: the logits do not hang on the images; says where the graph ends.
        """
        if self.common:
            draws = replace(draws, queries=torch.zeros_like(draws.queries))
        average = self._average_loss if self.average == "loss" else self._average_outputs
        chunk = resolve_chunk(self.chunk, defended, images, len(images) * self.samples)
        with torch.enable_grad():
            (gradient, objective, hits, forwards), used = with_retreat(
                lambda size: average(defended, images, goal, loss, draws, size), chunk
            )
        return Estimate(gradient, objective, self.samples, forwards, used, hits == self.samples)

    def _average_loss(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        gradient = torch.zeros_like(images)
        objective, hits = (images.new_zeros(len(images)) for _ in range(2))
        for rows in self._chunks(images, draws, chunk):
            leaf, own = rows.leaf(images), goal[rows.images]
            logits = defended.logits(leaf, rows.draws)
            with span("reduction"):
                objectives = own.objective(logits, loss)
                total = objectives.sum()
            gradients = _input_gradient(total, leaf, None, defended, rows.draws)
            with span("reduction"):
                rows.add(gradient, gradients)
                rows.add(objective, objectives.detach())
                rows.add(hits, own.reached(logits.detach().argmax(1)).to(hits.dtype))
            del leaf, logits, objectives, total, gradients  # else they live on beside the next chunk's activations
        return gradient / self.samples, objective / self.samples, hits, self.samples

    def _average_outputs(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal, loss: Loss, draws: Draws, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """∇L(ψ(mean φ(f_j))): φ, ψ = identity for logits, softmax and log for probabilities."""
        once = chunk >= len(images) * self.samples
        mean, hits = images.new_zeros(len(images), defended.num_classes), images.new_zeros(len(images))
        for rows in self._chunks(images, draws, chunk):
            with torch.set_grad_enabled(once):
                leaf = rows.leaf(images, once)
                outputs = self._output(defended.logits(leaf, rows.draws))
            with span("reduction"):
                rows.add(mean, outputs.detach())
                rows.add(hits, goal[rows.images].reached(outputs.detach().argmax(1)).to(hits.dtype))
        with span("reduction"):
            mean = (mean / self.samples).requires_grad_()
            tiny = torch.finfo(mean.dtype).tiny
            objective = goal.objective(mean if self.average == "logits" else mean.clamp(min=tiny).log(), loss)
            (slope,) = torch.autograd.grad(objective.sum(), mean)
        gradient = torch.zeros_like(images)
        for rows in self._chunks(images, draws, chunk):
            if not once:
                leaf = rows.leaf(images)
                outputs = self._output(defended.logits(leaf, rows.draws))
            gradients = _input_gradient(outputs, leaf, slope[rows.images], defended, rows.draws)
            with span("reduction"):
                rows.add(gradient, gradients)
            del leaf, outputs, gradients
        return gradient / self.samples, objective.detach(), hits, self.samples if once else 2 * self.samples

    def _output(self, logits: Tensor) -> Tensor:
        with span("reduction"):
            return logits if self.average == "logits" else logits.softmax(dim=1)

    def _chunks(self, images: Tensor, draws: Draws, chunk: int) -> Iterator[_Rows]:
        """Chunks of one shape; the last is filled with repeated rows, which nobody adds up."""
        total = len(images) * self.samples
        size = -(-total // -(-total // chunk))
        for start in range(0, total, size):
            # Made on both devices, so that neither waits for the other.
            with span("schedule"):
                rows, there = (
                    torch.arange(start, start + size, device=device) % total
                    for device in (draws.images.device, images.device)
                )
                found = _Rows(start, min(start + size, total), there % len(images), draws.laid_out(rows))
            yield found


def _input_gradient(
    output: Tensor, leaf: Tensor, slope: Tensor | None, defended: DefendedClassifier, draws: Draws
) -> Tensor:
    """The gradient of the output at the leaf; raises InputError where no graph leads there."""
    gradient: Tensor | None = None
    if output.requires_grad:
        with span("backward"):
            (gradient,) = torch.autograd.grad(output, leaf, slope, allow_unused=True)
    if gradient is None:
        raise InputError(lost_gradient(defended, leaf, draws))
    return gradient
