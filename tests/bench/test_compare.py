"""Files of benches compared: rows are matched by what they are of, and what differs beside them is said."""

import json

import pytest
from typer.testing import CliRunner

from cannonade.bench.compare import compare
from cannonade.cli import app
from cannonade.errors import InputError


def write(path, rows, **settings):
    path.write_text(json.dumps({"hardware": {"threads": 2, "versions": {"torch": "2.14.1"}}, **settings, "rows": rows}))
    return path


@pytest.fixture
def files(tmp_path):
    rows = [
        {"defense": "rotation", "model": True, "ours": 2.0, "quartiles": {"low": 1.5}},
        {"defense": "gone", "model": True, "ours": 1.0},
    ]
    changed = [
        {"defense": "new", "model": True, "ours": 1.0},
        {"defense": "rotation", "model": True, "ours": 3.0, "quartiles": {"low": 1.5}},
    ]
    return write(tmp_path / "a.json", rows, batch=16), write(tmp_path / "b.json", changed, batch=32)


def test_rows_are_matched(files):
    found = compare(*files)
    assert [(change.row, change.figure, change.ratio) for change in found.changes] == [
        ("defense=rotation, model=True", "ours", 1.5), ("defense=rotation, model=True", "quartiles.low", 1.0),
    ]  # fmt: skip
    assert found.missing == ["defense=gone, model=True"]
    assert found.new == ["defense=new, model=True"]
    assert found.context == [("batch", 16, 32)]


def test_rows_of_nested_tables_are_told_apart_by_what_they_stand_under(tmp_path):
    """As `bench frameworks` writes them: the same rows for each defense."""
    for name, factor in (("a.json", 1.0), ("b.json", 3.0)):
        content = {
            call: {"images": 5, "rows": [{"framework": "ART", "seconds": factor * seconds}]}
            for call, seconds in (("swirl", 1.0), ("bart(k=3)", 2.0))
        }
        (tmp_path / name).write_text(json.dumps({"votes": 10} | content))
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert [(change.row, change.figure, change.first, change.ratio) for change in found.changes] == [
        ("swirl, framework=ART", "seconds", 1.0, 3.0), ("bart(k=3), framework=ART", "seconds", 2.0, 3.0),
    ]  # fmt: skip


def test_command(files):
    ran = CliRunner().invoke(app, ["bench", "compare", *map(str, files)])
    assert ran.exit_code == 0, ran.output
    for words in ("1.500", "batch: 16 and 32", "only in the first: defense=gone", "only in the second: defense=new"):
        assert words in ran.output


def test_refusals(files, tmp_path):
    with pytest.raises(InputError, match=r"none\.json is not"):
        compare(files[0], tmp_path / "none.json")
    with pytest.raises(InputError, match="have none"):
        compare(files[0], write(tmp_path / "c.json", [{"other": "x", "ours": 1.0}]))
