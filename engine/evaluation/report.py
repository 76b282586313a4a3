"""`report.html`: the rates, the settings, and the photos, in one file that needs no network."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

from cannonade.evaluation.caveats import caveats, caveats_between
from cannonade.evaluation.charts import vote_shares
from cannonade.evaluation.methods import methods
from cannonade.evaluation.page import data_uri, eight_bit, figure_png, figure_uri, render
from cannonade.evaluation.paired import Paired
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.evaluation.votes_of import goal_share
from cannonade.files import replace_file

_EXTREMES = 4  # images shown of either kind
AMPLIFICATION = 16


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f} %"


def _interval(bounds: Sequence[float] | None) -> str:
    return "nothing was attacked" if bounds is None else f"{100 * bounds[0]:.1f} – {100 * bounds[1]:.1f} %"


FILTERS = {"percent": _percent, "interval": _interval}


@dataclass(frozen=True)
class Picture:
    """One image of a run: what the attack saw and made.

    Attributes:
        record: its line of `images.jsonl`.
        clean, defended: data URIs; adversarial, perturbation: data URIs, or None where it was not attacked.
        benign_shares, adversarial_shares: the most voted classes with their share of the votes.
    """

    record: dict[str, Any]
    clean: str
    defended: str
    adversarial: str | None
    perturbation: str | None
    benign_shares: list[tuple[int, float]]
    adversarial_shares: list[tuple[int, float]]


@dataclass(frozen=True)
class Extreme:
    """An attacked image: its record, the adversarial image as a data URI, and the most voted classes with their shares."""

    record: dict[str, Any]
    adversarial: str
    shares: list[tuple[int, float]]


@dataclass(frozen=True)
class ClassRow:
    """What became of the images of one class."""

    name: str
    images: int
    right: int
    attacked: int
    broken: int


@dataclass(frozen=True)
class Run:
    """A finished run, as the template shows it.

    Attributes:
        name: of its directory.
        run, summary: the contents of `run.json` and `summary.json`.
        records: of its images.
        pictures: the first images.
        easiest, hardest: attacked images by the votes that the attack won.
        caveats: what the numbers call for caution about.
        methods: the run in words.
        classes: by class, where there are not too many.
        votes: a histogram as a data URI.
    """

    name: str
    run: dict[str, Any]
    summary: dict[str, Any]
    records: list[dict[str, Any]]
    pictures: list[Picture]
    easiest: list[Extreme]
    hardest: list[Extreme]
    caveats: list[str]
    methods: str
    classes: list[ClassRow]
    votes: str

    def class_name(self, label: int) -> str:
        """The class's name where the model knows it, else its number."""
        return _class_name(self.run, label)

    @property
    def split(self) -> list[tuple[str, float, float]]:
        """Where the seconds went: part, seconds, share."""
        parts = self.summary["seconds_by_part"]
        total = self.summary["seconds"] or 1.0
        return [(part, seconds, seconds / total) for part, seconds in parts.items()]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the images that both attacked."""

    first: str
    second: str
    counts: Paired


def write_report(runs: Sequence[Path], out: Path, *, replace: bool = True) -> Path:
    """Write one page about one or several runs, with `images.csv` and `votes.png` of a single one.

    Args:
        runs: their directories; of several, those on the same data are compared image by image.
        out: directory for `report.html`.
        replace: write even where there is a report; processes that share a run leave it to the first.

    Returns:
        The file.
    """
    directory = RunDirectory(out)
    with directory.turn():
        if not replace and (out / "report.html").is_file():
            return out / "report.html"
        shown = [_read(path) for path in runs]
        same = [(_title(run, shown), run.run["configuration"], run.records) for run in shown]
        page = render(
            "report.html.jinja",
            FILTERS,
            runs=shown,
            comparisons=_compare(shown),
            between=caveats_between(same) if _same_data(shown) else [],
            amplification=AMPLIFICATION,
        )
        if len(runs) == 1:
            directory.write_text("images.csv", _table(shown[0].records))
            replace_file(out / "votes.png", figure_png(vote_shares(shown[0].records)))
        directory.write_text("report.html", page)
    return out / "report.html"


def _read(path: Path) -> Run:
    directory = RunDirectory(path)
    run, summary = directory.read_json("run.json"), directory.read_json("summary.json")
    records = directory.read_images()
    attacked = sorted((record for record in records if record["attacked"]), key=goal_share)
    hardest, easiest = attacked[:_EXTREMES], attacked[_EXTREMES:][-_EXTREMES:][::-1]
    return Run(
        path.name,
        run,
        summary,
        records,
        list(_pictures(directory, records)),
        _extremes(directory, easiest),
        _extremes(directory, hardest),
        caveats(summary, run["configuration"]),
        methods(run, summary),
        _classes(run, records),
        figure_uri(vote_shares(records)),
    )


def _classes(run: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[ClassRow]:
    labels = sorted({record["label"] for record in records})
    rows = []
    for label in labels:
        own = [record for record in records if record["label"] == label]
        attacked = [record for record in own if record["attacked"]]
        right = sum(record["benign_label"] == label for record in own)
        broken = sum(record["success"] for record in attacked)
        rows.append(ClassRow(_class_name(run, label), len(own), right, len(attacked), broken))
    return rows


def _class_name(run: Mapping[str, Any], label: int) -> str:
    names = run["class_names"]
    return str(names[label]) if label < len(names) else f"class {label}"


def _extremes(directory: RunDirectory, records: Sequence[dict[str, Any]]) -> list[Extreme]:
    images = directory.read_adversarial({record["id"] for record in records})
    return [
        Extreme(record, data_uri(eight_bit(images[record["id"]])), _shares(record["adversarial_counts"]))
        for record in records
    ]


def _compare(runs: Sequence[Run]) -> list[Comparison]:
    if not _same_data(runs):
        return []
    pairs = []
    for first, second in combinations(runs, 2):
        counts = Paired.of_records(first.records, second.records)
        pairs.append(Comparison(_title(first, runs), _title(second, runs), counts))
    return pairs


def _same_data(runs: Sequence[Run]) -> bool:
    return len({run.run["configuration"]["data_sha256"] for run in runs}) == 1


def _title(run: Run, runs: Sequence[Run]) -> str:
    """What tells a run from the others: what its configuration has that not all have, else its directory's name."""
    calls = [other.run["configuration"]["calls"] for other in runs]
    own = run.run["configuration"]["calls"]
    differing = [own[key] for key in own if len({str(call[key]) for call in calls}) > 1]
    return ", ".join(differing) or run.name


def _table(records: Sequence[dict[str, Any]]) -> str:
    """The images as CSV; counts as JSON."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: json.dumps(value) if isinstance(value, dict) else value for key, value in record.items()})
    return text.getvalue()


def _pictures(directory: RunDirectory, records: Sequence[dict[str, Any]]) -> Iterator[Picture]:
    by_id = {record["id"]: record for record in records}
    shown = list(directory.read_pictures())
    adversarial = directory.read_adversarial({int(image) for batch in shown for image in batch["ids"]})
    for batch in shown:
        for id_, clean, defended in zip(batch["ids"].tolist(), batch["clean"], batch["defended"], strict=True):
            record, attacked = by_id[id_], adversarial.get(id_)
            yield Picture(
                record,
                data_uri(clean),
                data_uri(defended),
                None if attacked is None else data_uri(eight_bit(attacked)),
                None if attacked is None else data_uri(eight_bit(0.5 + AMPLIFICATION * (attacked - clean / 255))),
                _shares(record["benign_counts"]),
                _shares(record.get("adversarial_counts", {})),
            )


def _shares(counts: dict[str, int]) -> list[tuple[int, float]]:
    total = sum(counts.values())
    return [(int(label), count / total) for label, count in list(counts.items())[:3]]
