"""From programs to launches."""

from collections.abc import Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor

from cannonade.defenses.program import Launch, Turn, layouts, schedule
from cannonade.kernels.device.rows import Step
from cannonade.kernels.pointwise import pointwise_step
from cannonade.transforms.base import Params, Transform

# Where a step of an image's program stands: the image's row, its stage, its row in the launch, and its place in a pass.
Place = tuple[int, int, int, int]


def plan(
    members: tuple[Transform, ...],
    params: Params,
    size: torch.Size,
    *,
    serial: Collection[int],
    clamp: bool,
    by_rows: bool,
) -> list[Launch]:
    """What to launch for a batch of programs, in order.

    All places travel to the device together. By rows, colour operations run together: an image's consecutive ones in one pass,
    and all images' that wait for any of them in one launch.

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
    places = [_places(own, rows, key in together) for key, rows, own in turns]
    table = torch.tensor([place for own in places for place in own], dtype=torch.int64).view(-1, 4)
    parts = table.to(params["steps"].device, non_blocking=True).split([len(own) for own in places])
    launches = []
    for (key, rows, own), where, listed in zip(turns, parts, places, strict=True):
        row, stage, place, slot = where.unbind(1)
        floats, ints = params["floats"][row, stage], params["ints"][row, stage]
        if key in together:
            numbers = [own[at].steps[nth] for _, _, at, nth in listed]
            step = _in_one_pass(
                members, numbers, floats, ints, place, slot, size, (len(rows), max(len(t.steps) for t in own))
            )
            launches.append(Launch(rows, torch.empty_like(row[: len(rows)]).index_put_((place,), row), step=step))
            continue
        parameters = layouts(members, size)[key].unpack(floats, ints)
        launch = Launch(rows, row, members[key], parameters, clamp)
        if by_rows and not launch.clamps:
            launch = Launch(rows, row, members[key], parameters, clamp, members[key].step(parameters))
        launches.append(launch)
    return launches


def _places(turns: Sequence[Turn], rows: Sequence[int], by_member: bool) -> list[Place]:
    """Every step of a launch; for several transforms together, those of one after those of another."""
    places = [
        (step, (row, turn.stage + nth, at, nth))
        for at, (row, turn) in enumerate(zip(rows, turns, strict=True))
        for nth, step in enumerate(turn.steps)
    ]
    return [place for _, place in (sorted(places) if by_member else places)]


def _in_one_pass(
    members: tuple[Transform, ...],
    numbers: Sequence[int],
    floats: Tensor,
    ints: Tensor,
    place: Tensor,
    slot: Tensor,
    size: torch.Size,
    shape: tuple[int, int],
) -> Step:
    """Colour operations as lists of each image's own: their numbers ascend, and so do their rows in the tables."""
    operations = torch.full(shape, -1, dtype=torch.int64, device=place.device)
    parameters = floats.new_zeros(*shape, 9)
    start = 0
    for number, equal in groupby(numbers):
        rows = slice(start, start := start + len(list(equal)))
        own = members[number].operation_parameters(layouts(members, size)[number].unpack(floats[rows], ints[rows]))
        operations[place[rows], slot[rows]] = int(members[number].operation or 0)
        parameters[place[rows], slot[rows], : own.shape[1]] = own
    return pointwise_step(operations, parameters, clamp=False)
