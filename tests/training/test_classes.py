"""Classes of two data sets: the same, or an error that says where they differ."""

import numpy as np
import pytest
from PIL import Image

from cannonade.data.sources import Item, Source, open_source
from cannonade.errors import InputError
from cannonade.training.classes import common_classes


def folder(root, *classes):
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    return root


def labelled(*labels):
    return Source([Item(i, label, str(i)) for i, label in enumerate(labels)], np.zeros((len(labels), 8, 8, 3)))


def test_numbers_of_imagenette_are_kept(tmp_path):
    train = open_source(str(folder(tmp_path / "train", "n01440764", "n03888257", "n02102040")))
    classes = common_classes(train, train)
    assert classes == (0, 217, 701)
    assert train.class_names[701] == "n03888257"
    numbered = train.numbered(classes)
    assert [item.label for item in numbered.items] == [0, 1, 2]
    assert numbered.class_names == {0: "n01440764", 1: "n02102040", 2: "n03888257"}


def test_folders_that_differ_at_the_same_place(tmp_path):
    train, val = folder(tmp_path / "train", "cat", "dog"), folder(tmp_path / "val", "cat", "fox")
    with pytest.raises(InputError, match="same class folders, got 'dog' and 'fox' for the same place, 1"):
        common_classes(open_source(str(train)), open_source(str(val)))


def test_a_class_that_is_missing(tmp_path):
    train, val = folder(tmp_path / "train", "cat", "dog", "fox"), folder(tmp_path / "val", "cat", "dog")
    sources = open_source(str(train)), open_source(str(val))
    with pytest.raises(InputError, match="there are no validation images of class 'fox'"):
        common_classes(*sources)
    with pytest.raises(InputError, match="there are no training images of class 'fox'"):
        common_classes(*sources[::-1])
    with pytest.raises(InputError, match="there are no training images of class '9'"):
        common_classes(labelled(1, 2), labelled(1, 2, 9))


def test_one_class_and_an_empty_one(tmp_path):
    with pytest.raises(InputError, match="at least two classes to tell apart, the data has 1"):
        common_classes(labelled(3, 3), labelled(3))
    (folder(tmp_path, "cat", "dog") / "empty").mkdir()
    with pytest.raises(InputError, match="every class folder must hold images, none in empty"):
        open_source(str(tmp_path))
