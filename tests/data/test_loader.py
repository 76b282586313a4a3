"""Both loaders deliver the same images, ids and labels, in the order of the feed, and name what cannot be read."""

from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import active_count
from time import perf_counter, sleep

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cannonade.data.loader import open_loader
from cannonade.data.sources import from_dataset, open_source
from cannonade.data.views import Augmentation, Feed
from cannonade.errors import InputError

needs_dali = pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="DALI is not installed")
DALI = pytest.param(
    "dali",
    marks=[
        needs_dali,
        pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*dlpack.*"),
    ],
)
BACKENDS = [DALI, "portable"]
SIZE = (24, 24)


@pytest.fixture
def folder(tmp_path):
    """Photos-like files of several kinds: RGB JPEG and PNG, grey, CMYK, turned by EXIF, 16-bit grey."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    y, x = np.mgrid[0:40, 0:30] / 40
    smooth = (255 * np.stack((x, y, 1 - x), axis=2)).astype(np.uint8)
    picture, grey = Image.fromarray(smooth), Image.fromarray(smooth[..., 0])
    for number in range(5):
        picture.rotate(90 * number, expand=True).save(tmp_path / "a" / f"{number}.jpg", quality=95)
    grey.save(tmp_path / "a" / "5-grey.jpg", quality=95)
    picture.convert("CMYK").save(tmp_path / "b" / "0-cmyk.jpg", quality=95)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "b" / "1-turned.jpg", quality=95, exif=exif)
    picture.save(tmp_path / "b" / "2.png")
    Image.fromarray(smooth[..., 0].astype(np.uint16) * 257).save(tmp_path / "b" / "3-deep.png")
    return tmp_path


def collect(source, backend, **settings):
    feed = Feed(**{"size": SIZE, "batch": 4} | settings)
    batches = list(open_loader(source, feed, backend=backend, workers=0 if backend == "portable" else 1))
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.ids for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        [len(batch.ids) for batch in batches],
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("side", [24, 40, 100])
def test_white_stays_in_range(tmp_path, backend, side):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (224, 224), "white").save(tmp_path / "a" / "0.png")
    for augmentation in (None, Augmentation()):
        images, *_ = collect(open_source(str(tmp_path)), backend, size=(side, side), augmentation=augmentation)
        assert images.max() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_are_those_of_the_source(folder, backend):
    """DALI's resize differs from PyTorch's mostly at the border."""
    source = open_source(str(folder))
    images, ids, labels, sizes = collect(source, backend)
    assert ids.tolist() == list(range(10))
    assert labels.tolist() == [0] * 6 + [1] * 4
    assert sizes == [4, 4, 2]
    expected = source.load(source.items, SIZE)
    apart = (images - expected).abs().flatten(1).mean(1)
    assert apart.max() < (2e-4 if backend == "dali" else 1e-6), apart


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_any_batch_and_start_deliver_the_same(folder, backend, augmentation):
    source = open_source(str(folder))
    settings = {"shuffle": True, "epoch": 3, "augmentation": augmentation}
    images, ids, _, _ = collect(source, backend, batch=10, **settings)
    again, same, _, sizes = collect(source, backend, batch=3, start=4, **settings)
    assert same.tolist() == ids[4:].tolist()
    assert sizes == [3, 3]
    assert torch.equal(again, images[4:])
    other, _, _, _ = collect(source, backend, batch=10, **settings | {"epoch": 4})
    assert not torch.equal(other, images)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_exactly_the_bad_files_are_missing(folder, backend, augmentation):
    for name, content in {"a/1.jpg": b"", "a/4.jpg": b"no image", "b/0-cmyk.jpg": None}.items():
        path = folder / name
        path.write_bytes(path.read_bytes()[:400] if content is None else content)
    source = open_source(str(folder))
    feed = Feed(size=SIZE, batch=3, augmentation=augmentation)
    with pytest.raises(InputError, match=r"a/1\.jpg is not.*on_error='skip'"):
        list(open_loader(source, feed, backend=backend, workers=0))
    loader = open_loader(source, feed, backend=backend, workers=0, on_error="skip")
    delivered = torch.cat([batch.ids for batch in loader])
    assert delivered.tolist() == [0, 2, 3, 5, 7, 8, 9]
    assert [item.id for item, _ in loader.skipped] == [1, 4, 6]
    assert all("readable and complete" in reason for _, reason in loader.skipped)


def encoded(picture, form, **settings):
    content = BytesIO()
    picture.save(content, form, **settings)
    return content.getvalue()


def files_of_every_kind():
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:24] / 24
    noisy = np.stack((x, y, 1 - x), axis=2) * 200 + generator.integers(0, 56, (24, 24, 3))
    picture = Image.fromarray(noisy.astype(np.uint8))
    grey, opaque = picture.convert("L"), Image.new("L", picture.size, 255)
    yield "jpg", encoded(picture, "JPEG")
    yield "progressive.jpg", encoded(picture, "JPEG", progressive=True)
    yield "grey.jpg", encoded(grey, "JPEG")
    yield "cmyk.jpg", encoded(picture.convert("CMYK"), "JPEG")
    yield "palette.png", encoded(picture.quantize(64), "PNG")
    yield "opaque.png", encoded(Image.merge("RGBA", [*picture.split(), opaque]), "PNG")
    yield "deep.png", encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    for form in ("png", "webp", "bmp", "tiff", "ppm"):
        yield form, encoded(picture, form.upper())
    for orientation in range(1, 9):
        exif = picture.getexif()
        exif[0x0112] = orientation
        yield f"turned{orientation}.jpg", encoded(picture, "JPEG", exif=exif)


KINDS = dict(files_of_every_kind())


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_of_every_kind_are_decoded_as_pillow_does(tmp_path, backend):
    (tmp_path / "a").mkdir()
    for name, content in KINDS.items():
        (tmp_path / "a" / (name if "." in name else f"plain.{name}")).write_bytes(content)
    source = open_source(str(tmp_path))
    assert len(source) == len(KINDS)
    images, _, _, _ = collect(source, backend)
    for image, item in zip(images, source.items, strict=True):
        with Image.open(item.name) as file:
            upright = ImageOps.exif_transpose(file)
            bright = np.asarray(upright) / 65535 if "deep" in item.name else np.asarray(upright.convert("RGB")) / 255
        expected = torch.from_numpy(np.atleast_3d(bright)).permute(2, 0, 1).float()
        torch.testing.assert_close(image, expected.expand(3, -1, -1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_pillow_refuses_is_refused(tmp_path, backend):
    """Transparency, which DALI would drop in silence, and every way a file can end too early."""
    (tmp_path / "a").mkdir()
    see_through = encoded(Image.new("RGBA", SIZE, (9, 9, 9, 7)), "PNG")
    wide = encoded(Image.fromarray(np.full(SIZE, 70_000, dtype=np.int32)), "TIFF")
    bad = {"see-through.png": see_through, "wide.tiff": wide}
    bad |= {f"{share}.jpg": KINDS["jpg"][: int(share * len(KINDS["jpg"]))] for share in (0.1, 0.7, 0.98)}
    bad |= {f"cut.{form}": KINDS[form][: len(KINDS[form]) // 2] for form in ("png", "webp", "bmp", "tiff", "ppm")}
    for name, content in bad.items():
        (tmp_path / "a" / name).write_bytes(content)
    (tmp_path / "a" / "z.jpg").write_bytes(KINDS["jpg"])
    loader = open_loader(
        open_source(str(tmp_path)), Feed(size=SIZE, batch=4), backend=backend, workers=0, on_error="skip"
    )
    assert [batch.ids.tolist() for batch in loader] == [[len(bad)]]
    assert sorted(Path(item.name).name for item, _ in loader.skipped) == sorted(bad)


@needs_dali
@pytest.mark.parametrize("epoch", range(3))
def test_backends_see_the_same_parts(tmp_path, epoch):
    """DALI decodes nothing but the part, and at its border chroma is interpolated from what lies outside."""
    (tmp_path / "a").mkdir()
    generator = np.random.default_rng(1)
    for number, subsampling in enumerate((0, 1, 2)):
        rough = Image.fromarray(generator.integers(0, 256, (61, 83, 3), dtype=np.uint8))
        rough.save(tmp_path / "a" / f"rough{number}.jpg", subsampling=subsampling)
    for name, content in KINDS.items():
        # The portable loader keeps 16 bits, DALI does not.
        if "deep" not in name:
            (tmp_path / "a" / (name if "." in name else f"plain.{name}")).write_bytes(content)
    source = open_source(str(tmp_path))
    settings = {"augmentation": Augmentation(scale=(0.05, 1)), "shuffle": True, "epoch": epoch}
    ours, theirs = (collect(source, backend, **settings) for backend in ("dali", "portable"))
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0], theirs[0])


@needs_dali
def test_what_only_dali_refuses_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(KINDS["png"][:-2])  # Pillow does not miss the end of the last checksum
    (tmp_path / "a" / "1.png").write_bytes(KINDS["png"])
    source = open_source(str(tmp_path))
    assert collect(source, "portable")[1].tolist() == [0, 1]
    loader = open_loader(source, Feed(size=SIZE, batch=2), backend="dali", on_error="skip")
    assert [batch.ids.tolist() for batch in loader] == [[1]]
    ((item, reason),) = loader.skipped
    assert item.id == 0
    assert "0.png, though Pillow can, so loader 'portable' takes it" in reason


@needs_dali
def test_backends_crop_alike(tmp_path):
    """Odd margins and sides that round: a crop one pixel off would show in a picture of noise."""
    (tmp_path / "a").mkdir()
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(((24, 31), (33, 24), (81, 64), (97, 64), (25, 24), (127, 40), (20, 29))):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    ours, theirs = (collect(open_source(str(tmp_path)), backend)[0] for backend in ("dali", "portable"))
    apart = (ours - theirs).abs().flatten(1).mean(1)
    assert apart.max() < 2e-3, apart


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pass_goes_on_at_any_position(folder, backend):
    """A batch's position is the start of what comes after it, whatever was skipped before."""
    for name in ("a/1.jpg", "a/2.jpg", "b/2.png"):
        (folder / name).write_bytes(b"")
    source = open_source(str(folder))
    settings = {"backend": backend, "workers": 0, "on_error": "skip"}
    feed = Feed(size=SIZE, batch=2, shuffle=True, augmentation=Augmentation())
    whole = list(open_loader(source, feed, **settings))
    assert whole[-1].position == len(source) or whole[-1].position == len(source) - 1
    for number, batch in enumerate(whole):
        rest = list(open_loader(source, replace(feed, start=batch.position), **settings))
        assert [each.ids.tolist() for each in rest] == [each.ids.tolist() for each in whole[number + 1 :]]
        assert all(
            torch.equal(*pair)
            for pair in zip([each.images for each in rest], [each.images for each in whole[number + 1 :]], strict=True)
        )


def test_waiting_is_counted(folder):
    loader = open_loader(open_source(str(folder)), Feed(size=SIZE, batch=4), backend="portable", workers=0)
    began = perf_counter()
    for _ in loader:
        sleep(0.02)
    assert 0 < loader.waited < perf_counter() - began - 0.05


@pytest.mark.parametrize("backend", [DALI])
def test_a_pass_that_is_left_leaves_no_threads(folder, backend):
    before = active_count()
    feed = Feed(size=SIZE, batch=1, augmentation=Augmentation())
    images = iter(open_loader(open_source(str(folder)), feed, backend=backend))
    next(images)
    images.close()
    del images
    assert active_count() <= before  # threads of an earlier test may end meanwhile


def test_workers_change_nothing(folder):
    source = open_source(str(folder))
    feed = Feed(size=SIZE, batch=3, shuffle=True, augmentation=Augmentation())
    alone, together = (
        torch.cat([batch.images for batch in open_loader(source, feed, backend="portable", workers=workers)])
        for workers in (0, 2)
    )
    assert torch.equal(alone, together)


def test_tensors_and_data_sets(photos):
    labels = torch.arange(8)
    pair = from_dataset((photos[:, :, :24, :24], labels))
    images, ids, found, _ = collect(pair, "auto")
    assert torch.equal(images, photos[:, :, :24, :24])
    assert found.tolist() == ids.tolist() == labels.tolist()
    dataset = torch.utils.data.TensorDataset(photos[:, :, :24, :24], labels)
    assert torch.equal(collect(from_dataset(dataset), "auto")[0], images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "ffcv"}, "loader must be auto"),
        ({"backend": "dali"}, "this source has none|needs DALI"),
        ({"workers": -1}, "workers must be"),
        ({"on_error": "ignore"}, "on_error must be"),
    ],
)
def test_bad_settings(photos, settings, words):
    with pytest.raises(InputError, match=words):
        open_loader(from_dataset((photos, torch.arange(8))), Feed(size=SIZE, batch=1), **settings)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "at least one image"),
        ((torch.zeros(2, 3, 4, 4), [1]), "images .N, 3, H, W. and labels"),
        ((torch.full((2, 3, 4, 4), 2.0), [1, 0]), "floats in"),
        ([(torch.full((3, 4, 4), -1.0), 1)], "leave normalisation"),
        ([(torch.zeros(1, 4, 4), 1)], "tensors .3, H, W."),
    ],
)
def test_bad_data_sets(data, words):
    def read():
        source = from_dataset(data)
        source.load(source.items, None)

    with pytest.raises(InputError, match=words):
        read()
