"""Figures as Markdown: rows stay rows, whatever stands in their cells."""

from cannonade.bench.markdown import as_markdown, hardware, sentences, table


def test_cells_cannot_end_a_cell_or_a_row():
    text = table([{"a|b": "x | y\nz", "c": "\\|"}])
    assert text.splitlines() == [r"| a\|b | c |", "| --- | --- |", r"| x \| y z | \\\| |"]


def test_every_row_has_every_column():
    rows = [
        {"name": "one", "ms": 1.23456, "quartiles": [1.0, 2.5], "n": 123456},
        {"name": "two", "ms": None, "used": {"exact": 3.0}, "right": True},
    ]
    assert table(rows).splitlines() == [
        "| name | ms | quartiles | n | used.exact | right |",
        "| --- | --- | --- | --- | --- | --- |",
        "| one | 1.235 | 1 – 2.5 | 123456 | — | — |",
        "| two | — | — | — | 3 | yes |",
    ]


def test_a_file_is_its_settings_and_its_tables():
    content = {
        "hardware": {"threads": 2, "gpu": None, "versions": {"torch": "2.14.1"}},
        "batch": 4,
        "first": [{"a": 1}],
        "empty": [],
        "second": [{"b": 2}],
    }
    assert sentences(hardware(content)) == "threads 2, gpu —, versions.torch 2.14.1"
    assert as_markdown(content).split("\n\n") == [
        "batch 4", "**first**", "| a |\n| --- |\n| 1 |", "**second**", "| b |\n| --- |\n| 2 |",
    ]  # fmt: skip
    nested = {"swirl(x=0.5)": {"images": 7, "rows": [{"a": 1}], "pairs": [{"b": 2}]}}
    assert as_markdown(nested).split("\n\n") == [
        "swirl(x=0.5).images 7", "**swirl(x=0.5), rows**", "| a |\n| --- |\n| 1 |",
        "**swirl(x=0.5), pairs**", "| b |\n| --- |\n| 2 |",
    ]  # fmt: skip
    assert as_markdown([{"a": 1.0}]) == "| a |\n| --- |\n| 1 |"
