"""Programs executed: by each transform's own functions, or by launchers that read and write rows of one buffer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cannonade.defenses.places import Places
from cannonade.defenses.planning import Plan
from cannonade.defenses.program import Launch
from cannonade.kernels.backend import choose
from cannonade.kernels.device.rows import Rows
from cannonade.spans import span


def on_rows(images: Tensor) -> bool:
    """Whether programs run by launchers where there are some: on a GPU."""
    return choose("auto", images, on_gpu=images.dtype == torch.float32) == "triton"


def execute(images: Tensor, plan: Plan, checkpoint: bool) -> Tensor:
    """Run a plan's launches in order: [N, 3, H, W] to the same.

    Args:
        checkpoint: keep only each launch's input and run it again in backward.
    """
    by_rows = on_rows(images)
    if torch.is_grad_enabled() and images.requires_grad:
        result: Tensor = (_OnRows if by_rows else _Program).apply(images, plan, checkpoint)
        return result
    if by_rows:
        return _Buffer(images, plan, keep=False).run()
    rows = _apart(images)
    for launch in plan.launches:
        _put(rows, launch, launch(_take(rows, launch)))
    return torch.cat(rows)


def _apart(images: Tensor) -> list[Tensor]:
    """Copies of the images, each [1, 3, H, W]; one of none where there are none."""
    with span("schedule"):
        return list(images.clone(memory_format=torch.contiguous_format).split(1))


def _take(rows: Sequence[Tensor], launch: Launch) -> Tensor:
    """The rows that wait, together; one alone as it is."""
    with span("schedule"):
        own = [rows[row] for row in launch.rows]
        return own[0].contiguous() if len(own) == 1 else torch.cat(own)


def _put(rows: list[Tensor], launch: Launch, value: Tensor) -> None:
    """Parts of what a launch made in place of the rows that waited; nothing is written into them."""
    for row, image in zip(launch.rows, value.split(1), strict=True):
        rows[row] = image


class _Program(torch.autograd.Function):
    """All launches as one node; each keeps its own small graph."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, plan: Plan, checkpoint: bool) -> Tensor:
        rows = _apart(images)
        ctx.tape = []
        for launch in plan.launches:
            link = _Link(launch, _take(rows, launch), checkpoint)
            ctx.tape.append(link)
            _put(rows, launch, link.value())
        return torch.cat(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        rows = _apart(grads[0])
        for link in reversed(ctx.tape):
            _put(rows, link.launch, link.pull(_take(rows, link.launch)))
        return torch.cat(rows), None, None


class _Link:
    """One launch by autograd: its input, and its graph unless that is to be made again."""

    def __init__(self, launch: Launch, images: Tensor, checkpoint: bool) -> None:
        self.launch, self._leaf = launch, images.detach().requires_grad_()
        self._kept: Tensor | None = None
        if not checkpoint:
            with torch.enable_grad():
                self._kept = launch(self._leaf)

    def value(self) -> Tensor:
        """[M, 3, H, W], what the launch makes of its input."""
        return self.launch(self._leaf.detach()) if self._kept is None else self._kept.detach()

    def pull(self, grad: Tensor) -> Tensor:
        """The gradient at the input, from that at the output; may be asked for again."""
        with torch.enable_grad():
            value = self.launch(self._leaf) if self._kept is None else self._kept
        (own,) = torch.autograd.grad(value, self._leaf, grad, retain_graph=self._kept is not None)
        return own


@dataclass
class _Move:
    """One launch in a buffer.

    Attributes:
        reads, writes: rows of the buffer, [M] int64.
        grad_reads, grad_writes: rows of the gradients' buffer.
        kept: what backward needs beside the input; or the launch by autograd.
    """

    launch: Launch
    reads: Tensor
    writes: Tensor
    grad_reads: Tensor
    grad_writes: Tensor
    kept: tuple[Tensor, ...] = ()
    link: _Link | None = field(default=None, repr=False)


class _Buffer:
    """The images of every stage of their programs in one buffer, so that launchers need no gathering and no scattering.

    All places are known before the first launch. With `keep`, each launch writes rows of its own, which are the inputs of
    backward; without, an image goes to and fro between two rows.
    """

    def __init__(self, images: Tensor, plan: Plan, keep: bool) -> None:
        self.places: Places = plan.places(len(images), keep, images.device)
        self.buffer = images.new_empty((self.places.size, *images.shape[1:]))
        self.buffer[: len(images)] = images
        self.moves = [_Move(launch, *own) for launch, own in zip(plan.launches, self.places.moves, strict=True)]

    def run(self) -> Tensor:
        """Launch everything without gradient: [N, 3, H, W]."""
        for move in self.moves:
            if move.launch.step is None:
                self.buffer[move.writes] = move.launch(self.buffer[move.reads])
            else:
                move.launch.step.forward(Rows(self.buffer, move.writes), Rows(self.buffer, move.reads))
        return self.buffer[self.places.ends]

    def run_keeping(self, checkpoint: bool) -> Tensor:
        """Launch everything and keep what backward needs."""
        for move in self.moves:
            if move.launch.step is None:
                move.link = _Link(move.launch, self.buffer[move.reads], checkpoint)
                self.buffer[move.writes] = move.link.value()
            else:
                move.kept = move.launch.step.forward(Rows(self.buffer, move.writes), Rows(self.buffer, move.reads))
        return self.buffer[self.places.ends]

    def pull(self, grad: Tensor) -> Tensor:
        """The gradient at the images, from that at the results."""
        gradients = grad.new_empty((2 * len(grad), *grad.shape[1:]))
        gradients[self.places.grad_ends] = grad
        for move in reversed(self.moves):
            # An image's gradient goes to and fro too, the other way.
            if move.link is not None:
                gradients[move.grad_writes] = move.link.pull(gradients[move.grad_reads])
            elif move.launch.step is not None:
                move.launch.step.backward(
                    Rows(gradients, move.grad_writes),
                    Rows(gradients, move.grad_reads),
                    Rows(self.buffer, move.reads),
                    *move.kept,
                )
        return gradients[: len(grad)]


class _OnRows(torch.autograd.Function):
    """All launches as one node, on rows of one buffer."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, plan: Plan, checkpoint: bool) -> Tensor:
        ctx.buffer = _Buffer(images, plan, keep=True)
        out: Tensor = ctx.buffer.run_keeping(checkpoint)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.buffer.pull(grads[0]), None, None
