"""Both loaders deliver the same images, ids and labels, in the order of the feed, and name what cannot be read."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from cannonade.data.loader import open_loader
from cannonade.data.sources import from_dataset, open_source
from cannonade.data.views import Augmentation, Feed
from cannonade.errors import InputError

DALI = pytest.param(
    "dali",
    marks=[
        pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="DALI is not installed"),
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
def test_images_are_those_of_the_source(folder, backend):
    """JPEG decoders differ by rounding, and DALI's resize from Pillow's by little more."""
    source = open_source(str(folder))
    images, ids, labels, sizes = collect(source, backend)
    assert ids.tolist() == list(range(10))
    assert labels.tolist() == [0] * 6 + [1] * 4
    assert sizes == [4, 4, 2]
    expected = source.load(source.items, SIZE)
    apart = (images - expected).abs().flatten(1).mean(1)
    assert apart.max() < (0.02 if backend == "dali" else 1e-6), apart


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


@pytest.mark.skipif(find_spec("nvidia.dali") is None, reason="DALI is not installed")
def test_backends_see_the_same_parts(folder):
    source = open_source(str(folder))
    ours, theirs = (
        collect(source, backend, augmentation=Augmentation(), shuffle=True) for backend in ("dali", "portable")
    )
    assert torch.equal(ours[1], theirs[1])
    assert (ours[0] - theirs[0]).abs().mean() < 0.01


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
