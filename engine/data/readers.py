"""How one image of a source becomes pixels: from a file, a member of a zip, an array, or a data set of PyTorch's."""

from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from cannonade.errors import InputError


class Reader(Protocol):
    """What a source reads its images with.

    Attributes:
        encoded: whether `content` is an image file, which another decoder could take.
    """

    encoded: bool

    def pixels(self, place: int, name: str) -> Tensor:
        """[3, H, W] float32 in [0, 1] of the image with this id and name."""

    def content(self, place: int, name: str) -> bytes:
        """What it was read from."""


class Files:
    """Image files by their path."""

    encoded = True

    def pixels(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        return decode(self.content(place, name), name)

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise InputError(f"images must be readable and complete, {name} is not: {error.strerror}") from error


class Archive:
    """Image files in a zip; opened in every process that reads, because processes cannot share an open file."""

    encoded = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: ZipFile | None = None

    def pixels(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        return decode(self.content(place, name), f"{self._path}:{name}")

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        if self._zip is None:
            self._zip = ZipFile(self._path)
        return self._zip.read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_zip": None}


class Array:
    """All images in one array.

    Args:
        pixels: [N, H, W, 3], uint8 or float in [0, 1].
    """

    encoded = False

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def pixels(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        return _scaled(torch.from_numpy(np.array(self._pixels[place])).permute(2, 0, 1))

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        content: bytes = self._pixels[place].tobytes()
        return content


class Dataset:
    """A `torch.utils.data.Dataset` of (image, label): PIL images, or tensors [3, H, W], uint8 or float in [0, 1]."""

    encoded = False

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def pixels(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        image = self._dataset[place][0]
        if isinstance(image, Image.Image):
            return _opened(image, name)
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
            shape = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"a data set's images must be PIL images or tensors [3, H, W], got {shape} for {name}")
        scaled = _scaled(image)
        if not (scaled >= 0).all() or not (scaled <= 1).all():
            raise InputError(f"a data set's images must be in [0, 1], {name} is not: leave normalisation to the model")
        return scaled

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        return self.pixels(place, name).numpy().tobytes()


def decode(content: bytes, name: str) -> Tensor:
    """The pixels of an image file, upright and as RGB: [3, H, W] float32 in [0, 1].

    Raises:
        InputError: it is no image, is truncated, or has transparent pixels.
    """
    try:
        with Image.open(BytesIO(content)) as file:
            return _opened(file, name)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"images must be readable and complete, {name} is not: {error}") from error


def upright_sides(content: bytes) -> tuple[int, int]:
    """Height and width of an image file once it is turned upright, from its header; (0, 0) where that cannot be read."""
    try:
        with Image.open(BytesIO(content)) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112, 1) >= 5
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
    return (width, height) if turned else (height, width)


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the shorter side to fit, then crop the centre: [3, H, W] to [3, *size]."""
    if tuple(image.shape[1:]) == size:
        return image
    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    resized = vision.resize(
        image, [max(size[0], round(image.shape[1] * scale)), max(size[1], round(image.shape[2] * scale))]
    )
    cropped: Tensor = vision.center_crop(resized, list(size))
    return cropped.clamp(0, 1)


def _opened(file: Image.Image, name: str) -> Tensor:
    upright = ImageOps.exif_transpose(file)
    if upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise InputError(f"images must be opaque, {name} has transparent pixels: flatten it onto a background")
    if upright.mode.startswith("I;16"):  # Pillow would clip a 16-bit grey image to 8 bits, not scale it
        grey = torch.from_numpy(np.array(upright).astype(np.float32)) / 65535
        return grey.expand(3, -1, -1).clone()
    return _scaled(torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1))


def _scaled(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()
