"""The Adversarial Robustness Toolbox: our classifiers, defenses and attacks as its estimators, preprocessors and attacks."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cannonade.attacks.attack import Attack
from cannonade.attacks.goals import Goal, Targeted, Untargeted
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier, OwnDraws, Randomness
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.integrations.door import Between, as_defended, framework
from cannonade.kernels.backend import on_device
from cannonade.transforms.base import Transform
from cannonade.voting import majority_vote

_OLDEST, _NEWEST = "1.20", "1.20.1"
_attack: Any = framework("art.attacks.attack", "adversarial-robustness-toolbox", _OLDEST, _NEWEST)
_classification: Any = framework("art.estimators.classification", "adversarial-robustness-toolbox", _OLDEST, _NEWEST)
_preprocessor: Any = framework(
    "art.defences.preprocessor.preprocessor", "adversarial-robustness-toolbox", _OLDEST, _NEWEST
)
_utils: Any = framework("art.utils", "adversarial-robustness-toolbox", _OLDEST, _NEWEST)

Floats = NDArray[np.float32]


def art_classifier(
    model: DefendedClassifier | Classifier,
    *,
    input_shape: tuple[int, int, int] | None = None,
    defenses: "tuple[DefensePreprocessor, ...]" = (),
) -> Any:
    """A `PyTorchClassifier` of images in [0, 1], on the device where the weights are.

    Args:
        model: a `DefendedClassifier`, or a `Classifier` for `defenses` to stand before.
        input_shape: (3, height, width); by default that of the classifier.
        defenses: applied in this order at prediction, not in training.

    Raises:
        InputError: the shape of the images is not known.
    """
    classifier = model.classifier if isinstance(model, DefendedClassifier) else model
    if input_shape is None:
        if classifier.input_size is None:
            raise InputError(
                "input_shape must be given, (3, height, width), because the classifier has no size of its own"
            )
        input_shape = (3, *classifier.input_size)
    with on_device(torch.empty(0, device=classifier.device)):  # ART takes the current GPU
        return _classification.PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            input_shape,
            classifier.num_classes,
            clip_values=(0.0, 1.0),
            preprocessing_defences=list(defenses) or None,
            device_type="cpu" if classifier.device.type == "cpu" else "gpu",
        )


class DefensePreprocessor(_preprocessor.PreprocessorPyTorch):  # type: ignore[misc]
    """A defense as ART's preprocessor: N images in, N out, each with a draw of its own.

    Args:
        defense: any transform of ours.
        seed: of its draws, in [0, 2^64).
        randomness: as of a `DefendedClassifier`.
        apply_fit: whether ART applies it in training.
        apply_predict: whether ART applies it at prediction.
        device_type: "cpu" or "gpu", where ART makes tensors of arrays.
    """

    params = ("defense", "seed", "randomness")

    def __init__(
        self,
        defense: Transform,
        *,
        seed: int = 0,
        randomness: Randomness = "fresh",
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.defense = defense
        self._own = OwnDraws(seed, randomness)
        self._last: Draws | None = None

    @property
    def seed(self) -> int:
        """Of the draws."""
        return self._own.seed

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Defended images, differentiable: [N, 3, H, W] in [0, 1] to the same; labels as they are."""
        self._last = self._own.next(len(x))
        return self.defense(x, self._last), y

    def estimate_forward(self, x: Tensor, y: Any = None) -> Tensor:
        """Defended by the draws of the last `forward` of so many images, so that a gradient is of what was predicted."""
        if self._last is None or len(self._last) != len(x):
            return self.forward(x)[0]
        return self.defense(x, self._last)

    def estimate_gradient(self, x: Floats, grad: NDArray[Any]) -> NDArray[Any]:
        """The gradient before the defense: [N, 3, H, W] at x, of `grad` behind it, by the draws of the last `forward`.

        ART takes every gradient of another shape than x for one of several classes; a defense may change the size too.
        """
        if grad.ndim != x.ndim or grad.shape == x.shape:
            found: NDArray[Any] = super().estimate_gradient(x, grad)
            return found
        images = torch.tensor(x, device=self.device, requires_grad=True)
        (before,) = torch.autograd.grad(
            self.estimate_forward(images), images, torch.as_tensor(grad, device=self.device)
        )
        return before.cpu().numpy()


class ArtAttack(_attack.EvasionAttack):  # type: ignore[misc]
    """One of our attacks, called as ART's: `generate(x, y=None)`, arrays in and out.

    Image i of a call has id i, so that `batch_size` changes nothing.

    Args:
        estimator: `art_classifier(…)`, or a `PyTorchClassifier` of any module with clip_values (0, 1).
        attack: our attack.
        targeted: whether `y` holds targets.
        batch_size: images attacked at once.
        votes: predictions of the vote that finds labels where there are none.
    """

    attack_params = (*_attack.EvasionAttack.attack_params, "attack", "targeted", "batch_size", "votes")
    _estimator_requirements = (_classification.PyTorchClassifier,)

    def __init__(
        self, estimator: Any, attack: Attack, *, targeted: bool = False, batch_size: int = 32, votes: int = 100
    ) -> None:
        super().__init__(estimator=estimator)
        self.attack = attack
        self._targeted = targeted
        self.batch_size = batch_size
        self.votes = votes
        self._check_params()

    def generate(self, x: Floats, y: NDArray[Any] | None = None) -> Floats:
        """Attack images.

        Args:
            x: [N, 3, H, W] in [0, 1].
            y: [N] labels or [N, K] one-hot: true ones, or targets of a targeted attack. Where there are none, the labels are
                those of a majority vote on x, by draws of the selection phase.

        Returns:
            [N, 3, H, W], of the type of x.

        Raises:
            InputError: an estimator that our attacks cannot take apart, a targeted attack without targets, or bad images.
        """
        if self.targeted and y is None:
            raise InputError("y must hold a target for each image of a targeted attack, got None")
        defended = _defended(self.estimator)
        found = [
            self._attack_batch(defended, x, y, torch.arange(start, min(start + self.batch_size, len(x))))
            for start in range(0, len(x), self.batch_size)
        ]
        return np.concatenate(found).astype(x.dtype) if found else x.copy()

    def _attack_batch(self, defended: DefendedClassifier, x: Floats, y: NDArray[Any] | None, ids: Tensor) -> Floats:
        images = torch.as_tensor(x[ids.numpy()], device=defended.classifier.device)
        return self.attack(defended, images, self._goal(defended, images, y, ids), ids=ids).images.cpu().numpy()

    def _goal(self, defended: DefendedClassifier, images: Tensor, y: NDArray[Any] | None, ids: Tensor) -> Goal:
        if y is None:
            return Untargeted(majority_vote(defended, images, self.votes, phase=Phase.SELECTION, ids=ids).labels)
        classes = _utils.check_and_transform_label_format(y, defended.num_classes).argmax(1)[ids.numpy()]
        labels = torch.as_tensor(classes, device=images.device)
        return Targeted(labels) if self.targeted else Untargeted(labels)

    def _check_params(self) -> None:
        if self.batch_size < 1 or self.votes < 1:
            raise InputError(f"batch_size and votes must be at least 1, got {self.batch_size} and {self.votes}")


def _defended(estimator: Any) -> DefendedClassifier:
    """The module of an estimator behind its preprocessors; of ours, one may stand first and is the defense."""
    bounds = estimator.clip_values
    if bounds is None or not (np.all(bounds[0] == 0) and np.all(bounds[1] == 1)):
        raise InputError(f"the estimator's clip_values must be (0, 1), got {bounds}")
    if estimator.postprocessing_defences:
        raise InputError("the estimator must have no postprocessing defences: our attacks work on its logits")
    if not estimator.channels_first or not estimator.all_framework_preprocessing:
        raise InputError("the estimator must have its channels first, and preprocessors for PyTorch alone")
    steps = [step for step in estimator.preprocessing_operations if step.apply_predict and not _does_nothing(step)]
    if isinstance(estimator.model, DefendedClassifier) and steps:
        raise InputError(f"a DefendedClassifier must stand alone in its estimator, got {steps[0]} before it")
    if not steps:
        return as_defended(estimator.model)
    first = steps.pop(0) if isinstance(steps[0], DefensePreprocessor) else None
    if any(isinstance(step, DefensePreprocessor) for step in steps):
        raise InputError("a DefensePreprocessor must stand first and alone; compose defenses into one for our attacks")

    def before(images: Tensor) -> Tensor:
        for step in steps:
            images, _ = step.forward(images)
        return images

    plain = as_defended(Between(estimator.model, before) if steps else estimator.model)
    return plain if first is None else DefendedClassifier(plain.classifier, first.defense, seed=first.seed)


def _does_nothing(step: Any) -> bool:
    """ART's normalisation by 0 and 1, which is always there."""
    return type(step).__name__.startswith("Standardisation") and not np.any(step.mean) and bool(np.all(step.std == 1))
