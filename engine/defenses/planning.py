"""From programs to launches."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from cannonade.defenses.places import Places, places_of_rows, places_of_stages
from cannonade.defenses.program import Launch, Turn, layouts, schedule
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.backend import carry
from cannonade.kernels.device.rows import Step
from cannonade.kernels.pointwise import pointwise_step
from cannonade.transforms.base import Params, Transform

# Where a step of an image's program stands: the image's row, its stage, its row in the launch, its place in a pass, and the
# number of its colour operation (0 where it is none).
Place = tuple[int, int, int, int, int]

_PARAMETERS = 9  # of a colour operation, at most: a matrix


@dataclass(frozen=True)
class Plan:
    """Launches in their order.

    Attributes:
        launches: what is run.
        stages: of a fixed sequence, the stage of each launch; empty for a schedule.
        steps: [N, k] of a fixed sequence, on the device.
    """

    launches: list[Launch]
    stages: tuple[int, ...] = ()
    steps: Tensor | None = None

    def places(self, count: int, keep: bool, device: torch.device) -> Places:
        """Where the images of each launch stand; see `cannonade.defenses.places`."""
        if self.steps is None:
            return places_of_rows([launch.rows for launch in self.launches], count, keep, device)
        stages = [(stage, launch.index) for stage, launch in zip(self.stages, self.launches, strict=True)]
        return places_of_stages(self.steps, stages, keep)


def plan(
    members: tuple[Transform, ...],
    params: Params,
    size: torch.Size,
    *,
    serial: Collection[int],
    clamp: bool,
    by_rows: bool,
) -> Plan:
    """What to launch for a batch of programs, in order, each transform for those that wait for it.

    The programs are read on the host, which waits for nothing where their steps are there. All places travel to the device
    together. By rows, colour operations run together: an image's consecutive ones in one pass, and all images' that wait for
    any of them in one launch.

    Args:
        members: the transforms, by the numbers that the programs use.
        params: "steps" [N, k], "floats" [N, k, P] and "ints" [N, k, Q]; see `BaRT.sample`.
        size: (H, W) of the images.
        serial: see `schedule`.
        clamp: to [0, 1] after every transform.
        by_rows: whether launchers run what they can.
    """
    together = [number for number, member in enumerate(members) if by_rows and member.operation is not None]
    turns = list(schedule(params["steps"], serial, together))
    places = [_places(members, own, rows, key in together) for key, rows, own in turns]
    table = torch.tensor([place for own in places for _, place in own], dtype=torch.int64).view(-1, 5).mT.contiguous()
    where = carry(table, params["floats"].device)
    tables = (*where, params["floats"][where[0], where[1]], params["ints"][where[0], where[1]])
    parts = zip(*(part.split([len(own) for own in places]) for part in tables), strict=True)
    launches = []
    for (key, rows, own), (row, _, place, slot, operation, floats, ints), listed in zip(
        turns, parts, places, strict=True
    ):
        if key in together:
            operations = torch.full((len(rows), max(len(turn.steps) for turn in own)), -1, device=row.device)
            operations.index_put_((place, slot), operation)
            step = _in_one_pass(
                members, [number for number, _ in listed], floats, ints, (place, slot), operations, size
            )
            launches.append(Launch(rows, torch.empty_like(row[: len(rows)]).index_put_((place,), row), step=step))
            continue
        launch = Launch(rows, row, members[key], layouts(members, size)[key].unpack(floats, ints), clamp)
        launches.append(_by_launchers(launch) or launch if by_rows else launch)
    return Plan(launches)


def plan_fixed(members: tuple[Transform, ...], params: Params, size: torch.Size, clamp: bool) -> Plan:
    """One sequence of launches for any programs: stage by stage every transform, over the whole batch.

    A launch leaves out the images whose step at its stage is another one; which these are, the device alone knows. All colour
    operations of a stage are one launch.

    Args:
        members, params, size, clamp: as for `plan`; everything on one GPU.

    Raises:
        InputError: a transform has no launchers.
    """
    steps = params["steps"]
    image = torch.arange(len(steps), device=steps.device)
    launches, stages = [], []
    for stage in range(steps.shape[1]):
        own = [_FixedStep(members, number, params, stage, size) for number in range(len(members))]
        coloured = [part for part in own if part.member.operation is not None]
        found = [part.launch(image, clamp) for part in own if part.member.operation is None]
        lacking = [launch.transform.name for launch in found if launch.transform is not None and launch.step is None]
        if lacking:
            raise InputError(
                f'bart: launches="fixed" needs transforms with launchers that keep [0, 1] or no clamp; {", ".join(lacking)} '
                'cannot be run so: leave it out of `transforms`, or use launches="scheduled"'
            )
        found += [_colours_of_a_stage(coloured, image)] if coloured else []
        launches += found
        stages += [stage] * len(found)
    return Plan(launches, tuple(stages), steps)


class _FixedStep:
    """One transform at one stage: the images whose step it is, and parameters that do no harm to the others'."""

    def __init__(
        self, members: tuple[Transform, ...], number: int, params: Params, stage: int, size: torch.Size
    ) -> None:
        self.member = members[number]
        self.own = params["steps"][:, stage] == number
        floats, ints = (
            torch.where(self.own[:, None], params[name][:, stage], default[number])
            for name, default in zip(("floats", "ints"), _defaults(members, size, self.own.device), strict=True)
        )
        self.params = layouts(members, size)[number].unpack(floats, ints)

    def launch(self, image: Tensor, clamp: bool) -> Launch:
        launch = Launch(list(range(len(image))), torch.where(self.own, image, -1), self.member, self.params, clamp)
        return _by_launchers(launch) or launch


def _colours_of_a_stage(steps: Sequence[_FixedStep], image: Tensor) -> Launch:
    operations = torch.full_like(image, -1)
    parameters = torch.zeros(len(image), _PARAMETERS, device=image.device)
    for step in steps:
        operations = operations.masked_fill(step.own, int(step.member.operation or 0))
        own = step.member.operation_parameters(step.params)
        parameters[:, : own.shape[1]] = torch.where(step.own[:, None], own, parameters[:, : own.shape[1]])
    index = torch.where(operations >= 0, image, -1)
    step_by_launchers = pointwise_step(operations[:, None], parameters[:, None], clamp=False)
    return Launch(list(range(len(image))), index, step=step_by_launchers)


@lru_cache(maxsize=64)
def _defaults(members: tuple[Transform, ...], size: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    floats, ints = default_tables(members, size)
    with torch.inference_mode(False):
        return carry(floats, device), carry(ints, device)


@lru_cache(maxsize=64)
def default_tables(members: tuple[Transform, ...], size: torch.Size) -> tuple[Tensor, Tensor]:
    """Parameters that each transform can be launched with: [members, P] and [members, Q], on the host."""
    tables = layouts(members, size)
    zero = torch.zeros(1, dtype=torch.int64)
    draws = Draws(seed=0, phase=Phase.ATTACK, images=zero, queries=zero)
    with torch.inference_mode(False):
        floats = torch.zeros(len(members), max(layout.floats for layout in tables))
        ints = torch.zeros(len(members), max(layout.ints for layout in tables), dtype=torch.int64)
        for number, (member, layout) in enumerate(zip(members, tables, strict=True)):
            layout.pack(member.sample(draws, torch.Size((1, 3, *size))), zero + number, floats, ints)
        return floats, ints


def _by_launchers(launch: Launch) -> Launch | None:
    """The same with launchers, where they do all of it."""
    if launch.transform is None or launch.clamps:
        return None
    step = launch.transform.step(launch.params)
    return Launch(launch.rows, launch.index, launch.transform, launch.params, launch.clamp, step)


def _places(
    members: tuple[Transform, ...], turns: Sequence[Turn], rows: Sequence[int], by_member: bool
) -> list[tuple[int, Place]]:
    """Every step of a launch and its place; for several transforms together, those of one after those of another."""
    places = [
        (step, (row, turn.stage + nth, at, nth, int(members[step].operation or 0)))
        for at, (row, turn) in enumerate(zip(rows, turns, strict=True))
        for nth, step in enumerate(turn.steps)
    ]
    return sorted(places) if by_member else places


def _in_one_pass(
    members: tuple[Transform, ...],
    numbers: Sequence[int],
    floats: Tensor,
    ints: Tensor,
    place: tuple[Tensor, Tensor],
    operations: Tensor,
    size: torch.Size,
) -> Step:
    """Colour operations as lists of each image's own: their numbers ascend, and so do their rows in the tables."""
    own = floats.new_zeros(len(numbers), _PARAMETERS)
    start = 0
    for number, equal in groupby(numbers):
        rows = slice(start, start := start + len(list(equal)))
        values = members[number].operation_parameters(layouts(members, size)[number].unpack(floats[rows], ints[rows]))
        own[rows, : values.shape[1]] = values
    parameters = floats.new_zeros(*operations.shape, _PARAMETERS).index_put_(place, own)
    return pointwise_step(operations, parameters, clamp=False)
