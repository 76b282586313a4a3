"""Programs: a list of transforms per image, packed in tables, and executed without a barrier between stages."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.device.rows import Step
from cannonade.kernels.pointwise import clip
from cannonade.transforms.base import Params, Transform


class Layout:
    """Where each parameter of a transform stands in the rows of a float table and an integer table."""

    def __init__(self, example: Params) -> None:
        self.fields = {key: (value.dtype, value.shape[1:]) for key, value in example.items()}
        self.floats = sum(prod(shape) for dtype, shape in self.fields.values() if dtype.is_floating_point)
        self.ints = sum(prod(shape) for dtype, shape in self.fields.values() if not dtype.is_floating_point)

    def _columns(self) -> Iterator[tuple[str, torch.dtype, torch.Size, slice]]:
        ends = {True: 0, False: 0}
        for key, (dtype, shape) in self.fields.items():
            kind = dtype.is_floating_point
            start, ends[kind] = ends[kind], ends[kind] + prod(shape)
            yield key, dtype, shape, slice(start, ends[kind])

    def pack(self, params: Params, rows: Tensor, floats: Tensor, ints: Tensor) -> None:
        """Write parameters into rows of the tables."""
        for key, dtype, _, columns in self._columns():
            table = floats if dtype.is_floating_point else ints
            table[rows, columns] = params[key].reshape(len(rows), -1).to(table.dtype)

    def unpack(self, floats: Tensor, ints: Tensor) -> dict[str, Tensor]:
        """Read parameters from rows of the tables."""
        return {
            key: (floats if dtype.is_floating_point else ints)[:, columns].reshape(-1, *shape).to(dtype)
            for key, dtype, shape, columns in self._columns()
        }


@lru_cache(maxsize=64)
def layouts(members: tuple[Transform, ...], size: torch.Size) -> list[Layout]:
    """The layout of every member's parameters, from an empty sample."""
    nobody = torch.zeros(0, dtype=torch.int64)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=nobody, queries=nobody)
    return [Layout(member.sample(draws, torch.Size((0, 3, *size)))) for member in members]


@dataclass(frozen=True)
class Turn:
    """What an image does next: one step of its program, or several that are one pass over its pixels.

    Attributes:
        key: what is run: a transform's number, or that of the first of those that run together.
        stage: of its first step.
        steps: the numbers of the transforms, more than one only where they run together.
    """

    key: int
    stage: int
    steps: tuple[int, ...]


def turns(program: Sequence[int], together: Collection[int]) -> list[Turn]:
    """A program, −1 for no step, cut into turns: consecutive steps of transforms that run together are one."""
    found: list[Turn] = []
    for stage, step in enumerate(program):
        if step < 0:
            continue
        key = min(together) if step in together else step
        last = found[-1] if found else None
        if last is not None and step in together and last.key == key and last.stage + len(last.steps) == stage:
            found[-1] = Turn(key, last.stage, (*last.steps, step))
        else:
            found.append(Turn(key, stage, (step,)))
    return found


def schedule(
    steps: Tensor, serial: Collection[int], together: Collection[int] = ()
) -> Iterator[tuple[int, list[int], list[Turn]]]:
    """What to run when: the transform that most images wait for, as soon as they do.

    Args:
        steps: [N, k] int64, each image's transforms in order; −1 for none.
        serial: transforms that wait until every image that will need them is there. Their cost is a serial chain, whatever
            the number of images: better late and together than early and twice.
        together: transforms that are run as if they were one, several steps of an image in one pass.

    Returns:
        (transform, or the least of those together; rows; each row's turn), until every program is done.
    """
    programs = [turns(program, together) for program in steps.tolist()]
    place = [0] * len(programs)
    while True:
        waiting = Counter(program[at].key for program, at in zip(programs, place, strict=True) if at < len(program))
        if not waiting:
            return
        to_come = Counter(turn.key for program, at in zip(programs, place, strict=True) for turn in program[at:])
        ready = [key for key, count in waiting.items() if key not in serial or to_come[key] == count]
        key = max(ready or waiting, key=lambda candidate: (waiting[candidate], -candidate))
        rows = [
            row
            for row, (program, at) in enumerate(zip(programs, place, strict=True))
            if at < len(program) and program[at].key == key
        ]
        yield key, rows, [programs[row][place[row]] for row in rows]
        for row in rows:
            place[row] += 1


@dataclass(frozen=True)
class Launch:
    """One transform on the rows that wait for it.

    Attributes:
        rows: their numbers, ascending; in a fixed sequence of launches all, as the host does not know which do.
        index: the same as a tensor, [M] int64 where the images are; −1 for those of all that do not wait for it.
        transform: what is run, with `params`, a row for each of the images.
        clamp: whether to clamp to [0, 1] what the transform does not keep there by itself.
        step: the same by launchers, where there are some; all there is for transforms that run together.
    """

    rows: list[int]
    index: Tensor
    transform: Transform | None = None
    params: Params = field(default_factory=dict)
    clamp: bool = False
    step: Step | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Transform the rows that wait: [M, 3, H, W] to the same."""
        if self.transform is None:
            raise InputError("transforms that run together run by launchers only")
        out = self.transform.transform(images, self.params)
        if out.shape != images.shape:
            raise InputError(f"bart: a transform must keep the size of images, {self.transform.name} does not")
        return clip(out) if self.clamps else out

    @property
    def clamps(self) -> bool:
        """Whether a clamp is left to do."""
        return self.clamp and self.transform is not None and not self.transform.keeps_range
