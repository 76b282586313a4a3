"""Two attacks judged on the same images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cannonade.evaluation.statistics import mcnemar, mcnemar_one_sided, paired_interval


@dataclass(frozen=True)
class Paired:
    """What two attacks broke of the images that both attacked.

    Attributes:
        only_first, only_second: images that one alone broke.
        pairs: all images.
    """

    only_first: int
    only_second: int
    pairs: int

    @classmethod
    def of(cls, first: Iterable[bool], second: Iterable[bool]) -> "Paired":
        """Count from whether each broke an image, image by image."""
        both = [(bool(one), bool(other)) for one, other in zip(first, second, strict=True)]
        return cls(both.count((True, False)), both.count((False, True)), len(both))

    @classmethod
    def of_records(cls, first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> "Paired":
        """Count from the records of two runs, on the images that both attacked."""
        other = {record["id"]: record for record in second if record["attacked"]}
        both = [(record, other[record["id"]]) for record in first if record["attacked"] and record["id"] in other]
        return cls.of((mine["success"] for mine, _ in both), (theirs["success"] for _, theirs in both))

    @property
    def points(self) -> float:
        """Difference of the success rates, the first's minus the second's, in percentage points."""
        return 100 * (self.only_first - self.only_second) / max(1, self.pairs)

    @property
    def text(self) -> str:
        """The difference and its 95 % interval, in percentage points, such as "+5.4 [+3.4, +8.4]"."""
        found = self.interval()
        return "—" if found is None else f"{self.points:+.1f} [{found[0]:+.1f}, {found[1]:+.1f}]"

    @property
    def p(self) -> float:
        """That chance alone explains it (McNemar, two-sided)."""
        return mcnemar(self.only_first, self.only_second)

    @property
    def p_first_stronger(self) -> float:
        """That chance alone makes the first so much stronger (McNemar, one-sided)."""
        return mcnemar_one_sided(self.only_first, self.only_second)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Of the difference, in percentage points (Tango's, see `paired_interval`); None without pairs."""
        found = paired_interval(self.only_first, self.only_second, self.pairs, confidence)
        return None if found is None else (100 * found[0], 100 * found[1])

    def equivalent(self, margin: float) -> bool:
        """Whether the rates differ by less than a margin, by two one-sided tests of level 5 %: the 90 % interval lies within.

        Args:
            margin: in percentage points.
        """
        found = self.interval(0.9)
        return found is not None and -margin < found[0] and found[1] < margin
