"""`report.html`: the rates, the settings, and the photos, in one file that needs no network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cannonade.evaluation.page import data_uri, eight_bit, render
from cannonade.evaluation.run_directory import RunDirectory

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
class Run:
    """A finished run, as the template shows it."""

    name: str
    run: dict[str, Any]
    summary: dict[str, Any]
    pictures: list[Picture]

    def class_name(self, label: int) -> str:
        """The class's name where the model knows it, else its number."""
        names = self.run["class_names"]
        return str(names[label]) if label < len(names) else f"class {label}"


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write one page about one or several runs.

    Args:
        runs: their directories.
        out: directory for `report.html`.

    Returns:
        The file.
    """
    page = render(
        "report.html.jinja",
        FILTERS,
        runs=[_read(path) for path in runs],
        amplification=AMPLIFICATION,
    )
    directory = RunDirectory(out)
    with directory.turn():
        directory.write_text("report.html", page)
    return out / "report.html"


def _read(path: Path) -> Run:
    directory = RunDirectory(path)
    run = directory.read_json("run.json")
    return Run(path.name, run, directory.read_json("summary.json"), list(_pictures(directory)))


def _pictures(directory: RunDirectory) -> Iterator[Picture]:
    records = {record["id"]: record for record in directory.read_images()}
    adversarial = {
        int(id_): image
        for batch in directory.read_tensors("adversarial")
        for id_, image in zip(batch["ids"], batch["images"], strict=True)
    }
    for batch in directory.read_tensors("pictures"):
        for id_, clean, defended in zip(batch["ids"].tolist(), batch["clean"], batch["defended"], strict=True):
            record, attacked = records[id_], adversarial.get(id_)
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
