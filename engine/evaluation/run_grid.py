"""A grid of evaluations into one directory, each cell an ordinary run directory below it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cannonade.errors import InputError
from cannonade.evaluation.grid import Cell
from cannonade.evaluation.plan import Plan
from cannonade.evaluation.run import Mode, check_same, run
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.evaluation.shared_votes import SharedVotes

RunCell = Callable[[str, Plan, Path, SharedVotes], dict[str, Any]]


def _in_silence(name: str, plan: Plan, directory: Path, shared: SharedVotes) -> dict[str, Any]:
    return run(plan, directory, mode="resume", shared=shared)


def run_grid(
    cells: Mapping[Cell, Plan], out: Path, mode: Mode = "new", run_cell: RunCell = _in_silence
) -> dict[Cell, dict[str, Any]]:
    """Evaluate every cell of a grid, those that share benign votes one after the other.

    Cells that are finished are left as they are, and one that was begun goes on, so that a grid that was killed ends with the
    results of one that was not. A grid may grow: what is finished in its directory is not done again.

    Args:
        cells: their plans, over the same classifier and images.
        out: the grid's directory, where each cell has one of its own.
        mode: "new" needs a new or empty directory; "resume" goes on with a grid; "join" does so beside other processes.
        run_cell: runs a cell, in mode "resume" or "join", and returns its summary.

    Returns:
        The summaries, in the order of the cells.

    Raises:
        InputError: two cells are the same evaluation, the directory cannot be used, or a cell's cannot.
    """
    _check_different(cells)
    directory = RunDirectory(out)

    def prepare(alone: bool) -> None:
        if mode == "new" or not (out / "grid.json").is_file():
            directory.check_empty()
        for cell, plan in cells.items():
            begun = RunDirectory(out / cell.name)
            if begun.begun:
                check_same(begun.read_json("run.json"), plan.configuration(), begun.path)
        directory.write_json("grid.json", {"cells": {cell.name: dict(cell.choices) for cell in cells}})

    by_vote: dict[tuple[str, int, int], list[Cell]] = {}
    for cell, plan in cells.items():
        by_vote.setdefault((str(plan.defended.defense), plan.defended.seed, plan.votes), []).append(cell)
    summaries = {}
    with directory.writing(mode == "join", prepare):
        for alike in by_vote.values():
            shared = SharedVotes()
            for cell in alike:
                shared.read(out / cell.name)
            for cell in alike:
                summaries[cell] = run_cell(cell.text, cells[cell], out / cell.name, shared)
                shared.read(out / cell.name)  # what other processes did of it
    return {cell: summaries[cell] for cell in cells}


def _check_different(cells: Mapping[Cell, Plan]) -> None:
    first: dict[str, Cell] = {}
    for cell, plan in cells.items():
        if (other := first.setdefault(str(plan.settings), cell)) != cell:
            raise InputError(
                f"the cells of a grid must differ, ({other.text}) and ({cell.text}) are the same evaluation"
            )
