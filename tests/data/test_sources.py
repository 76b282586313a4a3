"""Images from files and arrays: what is read, how it is numbered, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from cannonade.data.sources import open_source
from cannonade.errors import InputError


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_samples():
    source = open_source("samples")
    assert len(source) == 20
    images = source.load(source.items, (224, 224))
    assert images.shape == (20, 3, 224, 224)
    assert images.min() >= 0
    assert images.max() <= 1
    source.check_labels(1000)


def test_folder_is_numbered_in_alphabetical_order(folder):
    source = open_source(str(folder))
    assert [item.id for item in source.items] == list(range(12))
    assert [item.label for item in source.items] == [0] * 4 + [1] * 4 + [2] * 4
    assert source.load(source.items, None).shape == (12, 3, 20, 30)
    assert [item.id for item in source.limited(3).items] == [0, 4, 8]


@pytest.mark.parametrize(
    ("names", "labels"), [(("n01440764", "n03888257"), [0, 701]), (("7", "12"), [12, 7]), (("x", "7"), [0, 1])]
)
def test_class_numbers(tmp_path, names, labels):
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    assert [item.label for item in open_source(str(tmp_path)).items] == labels


def test_resize_then_crop(tmp_path):
    (tmp_path / "a").mkdir()
    Image.linear_gradient("L").resize((40, 20)).save(tmp_path / "a" / "0.png")
    source = open_source(str(tmp_path))
    assert source.load(source.items, (16, 16)).shape == (1, 3, 16, 16)
    assert source.load(source.items, (64, 32)).shape == (1, 3, 64, 32)
    exact = source.load(source.items, (20, 40))
    assert torch.equal(exact, source.load(source.items, None))


def test_modes_of_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    grey = np.linspace(0, 255, 256).reshape(16, 16)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "a" / "0.png")
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "a" / "1.png")
    rotated = Image.fromarray(grey.astype(np.uint8))
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.rotate(90).save(tmp_path / "a" / "2.png", exif=exif)
    Image.merge("RGBA", [Image.fromarray(grey.astype(np.uint8))] * 3 + [Image.new("L", (16, 16), 255)]).save(
        tmp_path / "a" / "3.png"
    )
    source = open_source(str(tmp_path))
    images = source.load(source.items, None)
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "transparent"])
def test_unusable_files_are_named(folder, kind):
    path = folder / "a" / "1.png"
    if kind == "transparent":
        Image.new("RGBA", (30, 20), (0, 0, 0, 7)).save(path)
    else:
        path.write_bytes({"text": b"no image", "empty": b"", "truncated": path.read_bytes()[:300]}[kind])
    source = open_source(str(folder))
    with pytest.raises(InputError, match=r"a/1\.png"):
        source.load(source.items, (16, 16))


def test_array_file(tmp_path):
    path = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array([2, 0, 1]))
    source = open_source(str(path))
    assert [item.label for item in source.items] == [2, 0, 1]
    loaded = source.load(source.items, None)
    np.savez(path, images=images.astype(np.float32) / 255, labels=np.array([2, 0, 1]))
    again = open_source(str(path))
    torch.testing.assert_close(again.load(again.items, None), loaded)


FLOATS = np.zeros((2, 4, 4, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": FLOATS}, "labels missing"),
        ({"images": FLOATS[..., 0], "labels": np.arange(2)}, r"must be RGB, \[N, H, W, 3\]"),
        ({"images": FLOATS[..., :1], "labels": np.arange(2)}, "must be RGB"),
        ({"images": FLOATS + 2, "labels": np.arange(2)}, r"uint8, or floats in \[0, 1\]"),
        ({"images": FLOATS * np.nan, "labels": np.arange(2)}, "without NaN"),
        ({"images": FLOATS.astype(int), "labels": np.arange(2)}, "uint8, or floats"),
        ({"images": FLOATS, "labels": np.arange(3)}, "must be 2 integers"),
        ({"images": FLOATS, "labels": np.zeros(2)}, "must be 2 integers"),
        ({"images": FLOATS[:0], "labels": np.arange(0)}, "N ≥ 1"),
        ({"images": np.array([None, 1]), "labels": np.arange(2)}, "without pickled objects"),
    ],
)
def test_bad_array_files(tmp_path, arrays, words):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=words):
        open_source(str(path))


def test_bad_sources(tmp_path):
    with pytest.raises(InputError, match="data must be 'samples', an existing folder"):
        open_source("nowhere")
    with pytest.raises(InputError, match="found none in"):
        open_source(str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"must be a readable \.npz file"):
        open_source(str(tmp_path / "x.npz"))
    (tmp_path / "a").mkdir()
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / "a" / f"{side}.png")
    source = open_source(str(tmp_path))
    with pytest.raises(InputError, match="of one size"):
        source.load(source.items, None)
    with pytest.raises(InputError, match="limit must be at least 1"):
        source.limited(0)


def test_numbered_labels_are_positions():
    source = open_source("samples")
    classes = sorted({item.label for item in source.items})
    numbered = source.numbered(classes)
    assert [classes[item.label] for item in numbered.items] == [item.label for item in source.items]
    assert [item.id for item in numbered.items] == [item.id for item in source.items]
