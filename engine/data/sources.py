"""Where images come from: photos, folders, zips, arrays, data sets; every image with its stable index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from cannonade.data.classes import class_names, class_numbers, read_labels
from cannonade.data.readers import Archive, Array, Dataset, Files, Reader, fit, scaled
from cannonade.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

_CIFAR10 = "cifar-10-batches-py"


@dataclass(frozen=True)
class Item:
    """One image of a source.

    Attributes:
        id: its index in the whole source, which decides its draws whatever else is evaluated.
        label: its true class.
        name: its path, or its place in an array file.
    """

    id: int
    label: int
    name: str


class Source:
    """A sequence of labelled images.

    Args:
        items: in the order of their ids.
        reader: what reads them; an array [N, H, W, 3], uint8 or float in [0, 1], stands for its reader. Files by default.
        classes: the name of each label; the numbers that occur by default. A part of a source keeps them all.
    """

    def __init__(
        self,
        items: Sequence[Item],
        reader: Reader | np.ndarray | None = None,
        classes: Mapping[int, str] | None = None,
    ) -> None:
        self.items = list(items)
        self.reader: Reader = Files() if reader is None else Array(reader) if isinstance(reader, np.ndarray) else reader
        self.classes = {item.label: str(item.label) for item in self.items} if classes is None else dict(classes)

    def __len__(self) -> int:
        return len(self.items)

    def limited(self, limit: int | None) -> "Source":
        """At most `limit` images, spread evenly over the source, with the ids they had.

        Every k-th image, from the first on, where the size is k times the limit.
        """
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise InputError(f"limit must be at least 1, got {limit}")
        return Source([self.items[index * len(self) // limit] for index in range(limit)], self.reader, self.classes)

    def every(self, step: int) -> "Source":
        """Every `step`-th image, from the first on, with the ids they had: 50 takes 1,000 of ImageNet's 50,000, and 5 takes
        785 of ImageNette's 3,925, as the paper's authors did."""
        if step < 1:
            raise InputError(f"every must be at least 1, got {step}")
        return Source(self.items[::step], self.reader, self.classes)

    def numbered(self, classes: Sequence[int]) -> "Source":
        """The same images, a label being its position in `classes`."""
        position = {label: index for index, label in enumerate(classes)}
        strangers = [item for item in self.items if item.label not in position]
        if strangers:
            raise InputError(f"labels must be among {list(classes)}, got {strangers[0].label} for {strangers[0].name}")
        items = [replace(item, label=position[item.label]) for item in self.items]
        names = {index: self.classes[label] for label, index in position.items() if label in self.classes}
        return Source(items, self.reader, names)

    def check_labels(self, num_classes: int) -> None:
        """Raise InputError if a label is not one of the classifier's classes."""
        for item in self.items:
            if not 0 <= item.label < num_classes:
                raise InputError(
                    f"labels must be in 0 … {num_classes - 1}, the classes of this model, got {item.label} for {item.name}"
                )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the ids, labels and pixels or file contents; taken once."""
        digest = sha256()
        for item in self.items:
            digest.update(f"{item.id} {item.label} ".encode())
            digest.update(self.reader.content(item.id, item.name))
        return digest.hexdigest()

    def pixels(self, item: Item) -> Tensor:
        """One image as it is: [3, H, W] float32 in [0, 1]."""
        return scaled(self.read(item))

    def read(self, item: Item) -> Tensor:
        """The same as it is stored: [3, H, W], uint8, or float32 in [0, 1]."""
        return self.reader.read(item.id, item.name)

    def load(self, items: Sequence[Item], size: tuple[int, int] | None) -> Tensor:
        """Read, resize and stack images.

        Args:
            items: some of `self.items`.
            size: (H, W): the shorter side is resized to fit, then the centre is cropped; None takes images as they are.

        Returns:
            [N, 3, H, W] float32 in [0, 1].

        Raises:
            InputError: a file that is no image, is truncated or has transparency, or sizes that differ while `size` is None.
        """
        images = [self.read(item) for item in items]
        if size is not None:
            images = [fit(image, size) for image in images]
        images = [scaled(image) for image in images]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise InputError(f"images must be of one size for a model without an input size, got {sorted(shapes)}")
        return torch.stack(images)


def open_source(name: str) -> Source:
    """Open a data set by name.

    Args:
        name: "samples" for the 20 ImageNet photos that foolbox carries; a folder or a `.zip` of `class/image` files (ImageNet's
            and ImageNette's synsets have ImageNet's numbers); an `.npz` file with `images` ([N, H, W, 3], uint8 or float in
            [0, 1]) and `labels` ([N]); a folder that holds torchvision's `cifar-10-batches-py`; or "imagenette:FOLDER", which
            torchvision downloads to that folder where it is not there yet. A part is named after a colon, "FOLDER:train",
            "cifar.zip:test"; without, CIFAR-10's is its test set and ImageNette's its val set. "FOLDER:FILE" takes a label file
            for a flat folder, FILE being in it or anywhere: lines of `image label`.

    Raises:
        InputError: nothing there, or nothing usable.

    Example:
        >>> source = open_source("samples").limited(2)
        >>> source.load(source.items, (224, 224)).shape
        torch.Size([2, 3, 224, 224])
    """
    if name == "samples":
        return _samples()
    if name.startswith("imagenette:"):
        return _imagenette(name.partition(":")[2])
    path, part = Path(name), ""
    if not path.exists() and ":" in name:
        place, _, part = name.rpartition(":")
        path = Path(place)
    if (path / _CIFAR10).is_dir():
        return _cifar10(path, part or "test")
    if path.suffix == ".zip" and path.is_file():
        return _archive(path, part)
    if path.is_dir():
        return _part(path, part)
    if path.suffix == ".npz" and path.is_file() and not part:
        return _array_file(path)
    raise InputError(
        f"data must be 'samples', an existing folder or .zip of class/image files or an .npz file, got {name!r}"
    )


def from_dataset(dataset: Any, name: str = "dataset") -> Source:
    """A source of what PyTorch knows as a data set: a map-style `Dataset` of (image, label), or a pair of tensors.

    Args:
        dataset: with PIL images or tensors [3, H, W] in [0, 1] or uint8; or (images [N, 3, H, W], labels [N]). Labels of a
            `Dataset` are taken from its `targets` where it has them, else every image is read once.
        name: for messages.

    Raises:
        InputError: it is neither, or is empty.
    """
    if isinstance(dataset, tuple):
        images, labels = dataset
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3 or len(images) != len(labels):
            raise InputError("a pair must be images [N, 3, H, W] and labels [N], got other shapes")
        pixels = images.detach().cpu().permute(0, 2, 3, 1).numpy()
        _check_pixels(pixels, name)
        return Source([Item(i, int(label), f"{name}[{i}]") for i, label in enumerate(labels)], pixels)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        raise InputError(f"a data set must have at least one image and be map-style, got {type(dataset).__name__}")
    targets = getattr(dataset, "targets", None)
    labels = [int(dataset[i][1]) for i in range(len(dataset))] if targets is None else [int(each) for each in targets]
    return Source([Item(i, label, f"{name}[{i}]") for i, label in enumerate(labels)], Dataset(dataset))


def check_same_classes(train: Source, validation: Source) -> list[int]:
    """The labels of a data set in two parts, in ascending order.

    Raises:
        InputError: the parts have different classes, or the same numbers for different ones, or there is only one class.
    """
    for first, second, place in ((train, validation, "validation"), (validation, train, "training")):
        missing = sorted(set(first.classes.values()) - set(second.classes.values()))
        if missing:
            raise InputError(
                f"training and validation data must have the same classes, missing in {place}: {', '.join(missing)}"
            )
    if train.classes != validation.classes:
        raise InputError("training and validation data must number their classes alike, but do not")
    if len(train.classes) < 2:
        raise InputError(f"there must be at least two classes to tell apart, got {', '.join(train.classes.values())}")
    return sorted(train.classes)


def _samples() -> Source:
    spec = find_spec("foolbox")  # located, not imported: only its photos are wanted
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the sample photos are those of foolbox, which is not installed: pip install 'cannonade[demo]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*_*.jpg"))
    return Source([Item(index, int(path.stem.rsplit("_", 1)[1]), str(path)) for index, path in enumerate(paths)])


def _part(root: Path, part: str) -> Source:
    if not part or (root / part).is_dir():
        return _folder(root / part)
    for labels in (root / part, Path(part)):
        if labels.is_file():
            return _listed(root, labels)
    raise InputError(f"after FOLDER: must stand a folder in it or a label file, {root} has no {part!r}")


def _listed(root: Path, path: Path) -> Source:
    """A flat folder with a label file; ids are places in that file."""
    listed = read_labels(path)
    names = sorted({label for _, label in listed})
    numbers = dict(zip(names, class_numbers(names), strict=True))
    present = {each.name for each in root.iterdir()}
    missing = [image for image, _ in listed if image not in present and not (root / image).is_file()]
    if missing:
        raise InputError(
            f"a label file must name images of its folder, {len(missing)} of {path} are not in {root}: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        )
    items = [Item(index, numbers[label], str(root / image)) for index, (image, label) in enumerate(listed)]
    return Source(items, classes=class_names(names))


def _folder(root: Path) -> Source:
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    files = [
        (position, path)
        for position, folder in enumerate(classes)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError(
            f"a data folder must hold class/image files ({', '.join(SUFFIXES)}), found none in {root}; "
            "a part is named FOLDER:part, a label file for a flat folder FOLDER:FILE"
        )
    labels = class_numbers([folder.name for folder in classes])
    empty = {folder.name for folder in classes} - {path.parent.name for _, path in files}
    if empty:
        raise InputError(f"every class folder must hold images, none in {', '.join(sorted(empty))} of {root}")
    items = [Item(index, labels[position], str(path)) for index, (position, path) in enumerate(files)]
    return Source(items, classes=class_names([folder.name for folder in classes]))


def _archive(path: Path, part: str) -> Source:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError) as error:
        raise InputError(f"{path} must be a readable .zip file: {error}") from error
    prefix = f"{part}/" if part else ""
    found = [
        (PurePosixPath(name).parent.name, name)
        for name in sorted(names)
        if name.startswith(prefix) and PurePosixPath(name).suffix.lower() in SUFFIXES and "/" in name[len(prefix) :]
    ]
    if not found:
        raise InputError(f"a .zip must hold class/image files ({', '.join(SUFFIXES)}), found none in {path}:{part}")
    classes = sorted({folder for folder, _ in found})
    numbers = dict(zip(classes, class_numbers(classes), strict=True))
    items = [Item(i, numbers[folder], name) for i, (folder, name) in enumerate(found)]
    return Source(items, Archive(path), class_names(classes))


def _cifar10(root: Path, part: str) -> Source:
    from torchvision.datasets import CIFAR10

    if part not in ("train", "test"):
        raise InputError(f"CIFAR-10 has the parts train and test, got {part!r}")
    try:
        data = CIFAR10(str(root), train=part == "train")
    except (RuntimeError, OSError, EOFError, KeyError) as error:
        raise InputError(f"{root / _CIFAR10} must be torchvision's copy of CIFAR-10, complete: {error}") from error
    items = [Item(i, label, f"cifar10 {part}[{i}]") for i, label in enumerate(data.targets)]
    return Source(items, data.data, dict(enumerate(data.classes)))


def _imagenette(name: str) -> Source:
    from torchvision.datasets import Imagenette

    place, _, part = name.rpartition(":")
    root, part = (Path(place), part) if place and part in ("train", "val") else (Path(name), "val")
    for folder in (root, root / "imagenette2"):
        if (folder / part).is_dir():
            return _folder(folder / part)
    try:
        Imagenette(str(root), split=part, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"ImageNette could not be downloaded to {root}: {error}") from error
    return _folder(root / "imagenette2" / part)


def _array_file(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"images", "labels"} - set(arrays.files)
            if missing:
                raise InputError(
                    f"{path} must hold arrays named images and labels, {' and '.join(sorted(missing))} missing"
                )
            images, labels = arrays["images"], arrays["labels"]
    except (ValueError, OSError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} must be a readable .npz file without pickled objects: {error}") from error
    if images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise InputError(f"images in {path} must be RGB, [N, H, W, 3] with N ≥ 1, got {list(images.shape)}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels in {path} must be {len(images)} integers, got {list(labels.shape)} {labels.dtype}")
    _check_pixels(images, str(path))
    names = (f"{path.name}[{index}]" for index in range(len(images)))
    return Source([Item(index, int(labels[index]), name) for index, name in enumerate(names)], images)


def _check_pixels(images: np.ndarray, place: str) -> None:
    floats = np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1
    if images.dtype != np.uint8 and not floats:
        raise InputError(f"images in {place} must be uint8, or floats in [0, 1] without NaN, got {images.dtype}")
