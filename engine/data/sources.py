"""Where images come from: the sample photos, a folder, or an array file; every image with its stable index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from cannonade.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

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
        pixels: for an array file, all images as [N, H, W, 3] uint8 or float in [0, 1]; None where `name` is a file to open.
    """

    def __init__(self, items: Sequence[Item], pixels: np.ndarray | None = None) -> None:
        self.items = list(items)
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self.items)

    def limited(self, limit: int | None) -> "Source":
        """At most `limit` images, spread evenly over the source, with the ids they had."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise InputError(f"limit must be at least 1, got {limit}")
        return Source([self.items[index * len(self) // limit] for index in range(limit)], self._pixels)

    def numbered(self, classes: Sequence[int]) -> "Source":
        """The same images, a label being its position in `classes`."""
        position = {label: index for index, label in enumerate(classes)}
        return Source([replace(item, label=position[item.label]) for item in self.items], self._pixels)

    def check_labels(self, num_classes: int) -> None:
        """Raise InputError if a label is not one of the classifier's classes."""
        for item in self.items:
            if not 0 <= item.label < num_classes:
                raise InputError(
                    f"labels must be in 0 … {num_classes - 1}, the classes of this model, got {item.label} for {item.name}"
                )

    def content(self) -> Iterator[bytes]:
        """The ids, labels and pixels or file contents, for a checksum."""
        for item in self.items:
            yield f"{item.id} {item.label} ".encode()
            yield Path(item.name).read_bytes() if self._pixels is None else self._pixels[item.id].tobytes()

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
        images = [self._read(item) for item in items]
        if size is not None:
            images = [_fit(image, size) for image in images]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            raise InputError(f"images must be of one size for a model without an input size, got {sorted(shapes)}")
        return torch.stack(images)

    def _read(self, item: Item) -> Tensor:
        if self._pixels is None:
            return _decode(Path(item.name))
        image = torch.from_numpy(np.array(self._pixels[item.id])).permute(2, 0, 1)
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def open_source(name: str) -> Source:
    """Open a data set by name.

    Args:
        name: "samples" for the 20 ImageNet photos that foolbox carries, a folder of `class/image` files, or an `.npz` file with
            `images` ([N, H, W, 3], uint8 or float in [0, 1]) and `labels` ([N]).

    Raises:
        InputError: nothing there, or nothing usable.
    """
    if name == "samples":
        return _samples()
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _array_file(path)
    raise InputError(f"data must be 'samples', an existing folder of class/image files or an .npz file, got {name!r}")


def _samples() -> Source:
    spec = find_spec("foolbox")  # located, not imported: only its photos are wanted
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the sample photos are those of foolbox, which is not installed: pip install 'cannonade[demo]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*_*.jpg"))
    return Source([Item(index, int(path.stem.rsplit("_", 1)[1]), str(path)) for index, path in enumerate(paths)])


def _folder(root: Path) -> Source:
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    files = [
        (position, path)
        for position, folder in enumerate(classes)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise InputError(f"a data folder must hold class/image files ({', '.join(SUFFIXES)}), found none in {root}")
    labels = _class_numbers([folder.name for folder in classes])
    return Source([Item(index, labels[position], str(path)) for index, (position, path) in enumerate(files)])


def _class_numbers(names: list[str]) -> list[int]:
    """Numbers as they stand, ImageNette's synsets by their ImageNet number, all others in alphabetical order."""
    if all(name.isdecimal() for name in names):
        return [int(name) for name in names]
    if all(name in IMAGENETTE for name in names):
        return [IMAGENETTE[name] for name in names]
    return list(range(len(names)))


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
    if images.dtype != np.uint8 and not (
        np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1
    ):
        raise InputError(f"images in {path} must be uint8, or floats in [0, 1] without NaN, got {images.dtype}")
    names = (f"{path.name}[{index}]" for index in range(len(images)))
    return Source([Item(index, int(labels[index]), name) for index, name in enumerate(names)], images)


def _decode(path: Path) -> Tensor:
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            if upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[0] != 255:
                raise InputError(f"images must be opaque, {path} has transparent pixels: flatten it onto a background")
            if upright.mode.startswith("I;16"):  # Pillow would clip a 16-bit grey image to 8 bits, not scale it
                grey = torch.from_numpy(np.array(upright).astype(np.float32)) / 65535
                return grey.expand(3, -1, -1).clone()
            array = np.array(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"images must be readable and complete, {path} is not: {error}") from error
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def _fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[1:]) == size:
        return image
    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    resized = vision.resize(
        image, [max(size[0], round(image.shape[1] * scale)), max(size[1], round(image.shape[2] * scale))]
    )
    cropped: Tensor = vision.center_crop(resized, list(size))
    return cropped.clamp(0, 1)
