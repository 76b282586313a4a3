"""Images from files and arrays: what is read, how it is numbered, and what is refused."""

from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from cannonade.data.sources import Source, check_same_classes, from_dataset, open_source
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


def flat(folder, count=3):
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"val_{number}.png")
    return folder


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ("val_2.png 65\nval_0.png 7\n", [65, 7]),
        ("val_2.png,n03888257\n\nval_0.png,n01440764\n", [701, 0]),
        ("val_2.png\tdog\nval_0.png\tcat", [1, 0]),
    ],
)
def test_flat_folder_with_a_label_file(tmp_path, lines, labels):
    folder = flat(tmp_path / "val")
    for place, name in ((folder / "labels.txt", "labels.txt"), (tmp_path / "far.txt", str(tmp_path / "far.txt"))):
        place.write_text(lines)
        source = open_source(f"{folder}:{name}")
        assert [(item.id, item.label) for item in source.items] == list(enumerate(labels))
        assert [item.name for item in source.items] == [str(folder / f"val_{number}.png") for number in (2, 0)]
        assert source.load(source.items, None)[:, 0, 0, 0].mul(255).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("val_0.png 1\nval_9.png 2\n", "1 of .* are not in .*: val_9.png$"),
        ("val_0.png 1\nval_0.png 2\n", "names val_0.png 2 times"),
        ("490\n361\n", "must be 'image label', line 1 .* is '490'"),
        ("\n", "names none"),
    ],
)
def test_bad_label_files(tmp_path, lines, words):
    folder = flat(tmp_path / "val")
    (folder / "labels.txt").write_text(lines)
    with pytest.raises(InputError, match=words):
        open_source(f"{folder}:labels.txt")


def test_parts_of_a_folder(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for part in ("train", "val"):
        (root / part).symlink_to(folder)
    assert len(open_source(f"{root}:val")) == len(open_source(f"imagenette:{root}:train")) == 12
    assert open_source(f"imagenette:{root}").items[0].name.startswith(str(root / "val"))
    for name, words in (("test", "has no 'test'"), ("", "a part is named FOLDER:part")):
        with pytest.raises(InputError, match=words):
            open_source(f"{root}:{name}" if name else str(root))


def test_imagenette_is_downloaded_where_it_is_not(tmp_path, monkeypatch):
    def download(root, split, download):
        assert download
        folder = tmp_path / "imagenette2" / split / "n03888257"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0.JPEG")

    monkeypatch.setattr("torchvision.datasets.Imagenette", download)
    assert [item.label for item in open_source(f"imagenette:{tmp_path}:train").items] == [701]


def test_every_and_limit_take_what_the_authors_took():
    """Every 50th of ImageNet's 50,000 and every 5th of ImageNette's 3,925 images."""
    for size, step, count in ((50_000, 50, 1000), (3925, 5, 785)):
        source = from_dataset((torch.zeros(size, 3, 1, 1), torch.arange(size) % 10))
        ids = [item.id for item in source.every(step).items]
        assert ids == list(range(0, size, step)) == [item.id for item in source.limited(count).items]
        assert len(ids) == count
        assert source.every(step).classes == source.classes
    with pytest.raises(InputError, match="every must be at least 1"):
        source.every(0)


def test_damaged_members_of_a_zip_are_named(folder, tmp_path):
    path = tmp_path / "data.zip"
    with ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"test/{file.parent.name}/{file.name}")
    source = open_source(f"{path}:test")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 0xFF
    path.write_bytes(content)
    assert len(source) == 12
    with pytest.raises(InputError, match=r"data\.zip:test/a/0\.png is not: Bad CRC"):
        source.load(source.items, None)


def classes(*names, start=0):
    return Source([], classes=dict(enumerate(names, start)))


def test_parts_with_the_same_classes(folder):
    source = open_source(str(folder))
    assert source.classes == {0: "a", 1: "b", 2: "c"}
    assert check_same_classes(source, source.limited(1)) == [0, 1, 2]
    assert source.numbered([2, 0, 1]).classes == {0: "c", 1: "a", 2: "b"}


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        (classes("a", "b"), classes("a"), "missing in validation: b"),
        (classes("a", "b"), classes("a", "b", "c"), "missing in training: c"),
        (classes("a", "b"), classes("a", "c"), "missing in validation: b"),
        (classes("a", "b"), classes("a", "b", start=1), "number their classes alike"),
        (classes("a"), classes("a"), "at least two classes"),
    ],
)
def test_parts_with_other_classes(train, validation, words):
    with pytest.raises(InputError, match=words):
        check_same_classes(train, validation)


def test_an_empty_class_is_named(folder):
    (folder / "d").mkdir()
    with pytest.raises(InputError, match="every class folder must hold images, none in d of"):
        open_source(str(folder))
    with pytest.raises(InputError, match="labels must be among"):
        open_source("samples").numbered([1, 2])
