"""The classes of a training: the same in both data sets, numbered 0 … K−1 for the logits."""

from cannonade.data.sources import Source
from cannonade.errors import InputError


def common_classes(train: Source, validation: Source) -> tuple[int, ...]:
    """The class numbers of two data sets, in ascending order: class i of the model is the i-th.

    Raises:
        InputError: there is one class only, the data sets' classes differ, or a class has no images in one of them.
    """
    classes, others = ({item.label for item in source.items} for source in (train, validation))
    names = train.class_names, validation.class_names
    for label in sorted(names[0].keys() & names[1].keys()):
        if names[0][label] != names[1][label]:
            raise InputError(
                f"training and validation images must have the same class folders, got {names[0][label]!r} and "
                f"{names[1][label]!r} for the same place, {label}"
            )
    for missing, where in ((classes - others, "validation"), (others - classes, "training")):
        if missing:
            label = min(missing)
            name = {**names[1], **names[0]}.get(label, str(label))
            raise InputError(
                f"training and validation images must be of the same classes, there are no {where} images of class {name!r}"
            )
    if len(classes) < 2:
        raise InputError(f"a classifier must have at least two classes to tell apart, the data has {len(classes)}")
    return tuple(sorted(classes))
