"""How one image of a source becomes pixels: from a file, a member of a zip, an array, or a data set of PyTorch's."""

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cannonade.errors import InputError

_ORIENTATION = 0x0112  # EXIF's tag: 1 is upright, 5 and more lie on their side
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TOO_DEEP = ("I", "F")
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Reader(Protocol):
    """What a source reads its images with.

    Attributes:
        encoded: whether `content` is an image file, which another decoder could take.
    """

    encoded: bool

    def read(self, place: int, name: str) -> Tensor:
        """The image with this id and name, [3, H, W]: uint8, or float32 in [0, 1]."""

    def content(self, place: int, name: str) -> bytes:
        """What it was read from."""


class Files:
    """Image files by their path."""

    encoded = True

    def read(self, place: int, name: str) -> Tensor:
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

    def read(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        return decode(self.content(place, name), f"{self._path}:{name}")

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        if self._zip is None:
            self._zip = ZipFile(self._path)
        try:
            return self._zip.read(name)
        except (BadZipFile, zlib.error) as error:
            raise InputError(f"images must be readable and complete, {self._path}:{name} is not: {error}") from error

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

    def read(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        image = torch.from_numpy(np.array(self._pixels[place])).permute(2, 0, 1)
        return image if image.dtype == torch.uint8 else image.float()

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        content: bytes = self._pixels[place].tobytes()
        return content


class Dataset:
    """A `torch.utils.data.Dataset` of (image, label): PIL images, or tensors [3, H, W], uint8 or float in [0, 1]."""

    encoded = False

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def read(self, place: int, name: str) -> Tensor:
        """See `Reader`."""
        image = self._dataset[place][0]
        if isinstance(image, Image.Image):
            return _opened(image, name)
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3:
            shape = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"a data set's images must be PIL images or tensors [3, H, W], got {shape} for {name}")
        if image.dtype == torch.uint8:
            return image
        image = image.float()
        if not (image >= 0).all() or not (image <= 1).all():
            raise InputError(f"a data set's images must be in [0, 1], {name} is not: leave normalisation to the model")
        return image

    def content(self, place: int, name: str) -> bytes:
        """See `Reader`."""
        return scaled(self.read(place, name)).numpy().tobytes()


def decode(content: bytes, name: str) -> Tensor:
    """The pixels of an image file, upright and as RGB, [3, H, W]: uint8, or float32 in [0, 1] where it has 16 bits of grey.

    Raises:
        InputError: it is no image, is truncated, has transparent pixels, or has more than 16 bits.
    """
    try:
        with Image.open(BytesIO(content)) as file:
            return _opened(file, name)
    except _UNREADABLE as error:
        raise InputError(f"images must be readable and complete, {name} is not: {error}") from error


def upright_sides(content: bytes) -> tuple[int, int]:
    """Height and width of an image file once it is turned upright, from its header; (0, 0) where that cannot be read."""
    try:
        with Image.open(BytesIO(content)) as file:
            width, height = file.size
            turned = file.getexif().get(_ORIENTATION, 1) >= 5
    except _UNREADABLE:
        return 0, 0
    return (width, height) if turned else (height, width)


def plain(content: bytes) -> bool:
    """Whether a look at both ends of an image file shows that every decoder that takes it must see the same picture: a JPEG
    that ends where it should, or another kind that says it is opaque and has at most 16 bits."""
    if content.startswith(_JPEG_START):
        return content.endswith(_JPEG_END)
    try:
        with Image.open(BytesIO(content)) as file:
            return not file.has_transparency_data and file.mode not in _TOO_DEEP
    except _UNREADABLE:
        return False


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the shorter side to fit, antialiased, then crop the centre: [3, H, W] to [3, *size].

    An image that has the size already is returned as it is; any other as float32 in [0, 1].
    """
    if tuple(image.shape[1:]) == size:
        return image
    from torchvision.transforms.v2 import functional as vision

    height, width = fitting(image.shape[1], image.shape[2], size)
    resized = vision.resize(scaled(image), [height, width], antialias=True)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    cropped: Tensor = resized[:, top : top + size[0], left : left + size[1]]
    return cropped.clamp(0, 1)


def fitting(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest sides of the same shape, rounded half up, that cover `size`; DALI does the same sum."""
    return (
        max(size[0], (2 * height * size[1] + width) // (2 * width)),
        max(size[1], (2 * width * size[0] + height) // (2 * height)),
    )


def scaled(image: Tensor) -> Tensor:
    """Pixels in [0, 1], float32, of uint8 or of what is in [0, 1] already."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def _opened(file: Image.Image, name: str) -> Tensor:
    upright = file if file.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(file)
    if upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise InputError(f"images must be opaque, {name} has transparent pixels: flatten it onto a background")
    if upright.mode in _TOO_DEEP:  # Pillow would clip them to 8 bits
        raise InputError(f"images must have at most 16 bits a channel, {name} has 32: convert it")
    if upright.mode.startswith("I;16"):  # these too
        grey = torch.from_numpy(np.array(upright).astype(np.float32)) / 65535
        return grey.expand(3, -1, -1).clone()
    pixels = np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
    # One byte a pixel moves here; later it would be four.
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
