"""Directories in which machines did parts of one run, put together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cannonade.errors import InputError
from cannonade.evaluation.run import check_same, summary_of_run
from cannonade.evaluation.run_directory import Finished, RunDirectory


def merge(parts: Sequence[Path], out: Path) -> dict[str, Any]:
    """Put the batches of several directories of the same run into a new one, as if one machine had done them all.

    Which batches a directory holds does not matter, nor whether it was finished; a batch that several hold is taken from the
    first of them that has it undamaged. Everything is checked before anything is written.

    Args:
        parts: run directories of one configuration.
        out: a new or empty directory.

    Returns:
        The content of its `summary.json`.

    Raises:
        InputError: a directory of another configuration or without a run, other rows of a pass, or batches that none has.
    """
    directories = [RunDirectory(path) for path in parts]
    headers = [directory.read_json("run.json") for directory in directories]
    first = headers[0]
    configuration = first["configuration"]
    for header, path in zip(headers, parts, strict=True):
        check_same(header, configuration, path)
        if header["resolved_chunk"] != first["resolved_chunk"]:
            raise InputError(
                f"parts of a run must have the same rows of a pass, {parts[0]} has {first['resolved_chunk']}, {path} has "
                f"{header['resolved_chunk']}: give every machine the same --chunk"
            )
    count = -(-configuration["images"] // configuration["batch"])
    batches, owner, records = _collect(directories, count)
    if missing := [number for number in range(count) if number not in batches]:
        raise InputError(
            f"the parts must hold all {count} batches, {len(missing)} are in none of them or damaged, the first being "
            f"{missing[0]}: finish or mend them with --resume"
        )
    whole = RunDirectory(out)
    ids = [batches[number].ids for number in range(count)]

    def prepare(alone: bool) -> None:
        whole.check_empty()
        whole.write_json("run.json", first | {"merged_from": [str(path) for path in parts]})

    with whole.writing(False, prepare):
        for number in range(count):
            for name in batches[number].checksums:
                whole.take_file(owner[number], name)
            whole.finish_batch(batches[number], records[number])
        whole.finish(ids, lambda found, finished: summary_of_run(found, finished, configuration))
    return whole.read_json("summary.json")


def _collect(
    directories: Sequence[RunDirectory], count: int
) -> tuple[dict[int, Finished], dict[int, RunDirectory], dict[int, list[dict[str, Any]]]]:
    """Each batch that is sound somewhere, the directory that has it, and its images' records."""
    batches: dict[int, Finished] = {}
    owner: dict[int, RunDirectory] = {}
    records: dict[int, list[dict[str, Any]]] = {}
    for directory in directories:
        sound, found, _ = directory.read_sound([None] * count)
        by_id = {int(record["id"]): record for record in found}
        for number, finished in sound.items():
            if number not in batches:
                batches[number], owner[number] = finished, directory
                records[number] = [by_id[image] for image in finished.ids]
    return batches, owner, records
