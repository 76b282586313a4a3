"""Numbers and names of classes, from folders and from label files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cannonade.errors import InputError

# ImageNette's folders, so that a subset of ImageNet keeps ImageNet's class numbers.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def class_numbers(names: Sequence[str]) -> list[int]:
    """Numbers as they stand, ImageNette's synsets by their ImageNet number, all others in the order given: alphabetical."""
    if all(name.isdecimal() for name in names):
        return [int(name) for name in names]
    if all(name in IMAGENETTE for name in names):
        return [IMAGENETTE[name] for name in names]
    return list(range(len(names)))


def class_names(names: Sequence[str]) -> dict[int, str]:
    """The name of each number."""
    return dict(zip(class_numbers(names), names, strict=True))


def read_labels(path: Path) -> list[tuple[str, str]]:
    """The images that a label file names and the label of each, in its order.

    A line is `image label` or `image,label`; labels are numbers, or names such as synsets.

    Raises:
        InputError: it has no lines, another kind of line, or names an image twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a readable label file: {error}") from error
    listed = []
    for number, line in enumerate(lines, start=1):
        parts = line.replace(",", " ").split()
        if len(parts) == 2:
            listed.append((parts[0], parts[1]))
        elif parts:
            raise InputError(f"every line of a label file must be 'image label', line {number} of {path} is {line!r}")
    if not listed:
        raise InputError(f"a label file must name at least one image, {path} names none")
    image, count = Counter(image for image, _ in listed).most_common(1)[0]
    if count > 1:
        raise InputError(f"a label file must name each image once, {path} names {image} {count} times")
    return listed
