"""The odds detector (Roth et al., ICML 2019): an adversarial image gives itself away by how noise moves its logits."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cannonade.defenses.model_side import ModelDefense, Network, numbered_stream
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.files import replace_file

_FEWEST = 3  # images of a class that its statistics take; with fewer its predictions are never doubted
_MOST_DRAWS = 4032  # places of `numbered_stream`


@dataclass(frozen=True, eq=False)
class OddsStatistics:
    """How noise moves the logits of clean images.

    Attributes:
        mean, std: [K, K] float64, over the clean images predicted as y, in row y, of the mean over noise draws of the log-odds
            of z against y, less the log-odds without noise, in column z. NaN in the rows of classes predicted too rarely.
        sigma: standard deviation of the noise in units of [0, 1]; noisy images are clipped to [0, 1].
        draws: noise draws of an image.
    """

    mean: Tensor
    std: Tensor
    sigma: float
    draws: int

    def __repr__(self) -> str:
        content = torch.stack((self.mean, self.std)).cpu().numpy().tobytes()
        return f"OddsStatistics(sigma={self.sigma}, draws={self.draws}, sha256='{hashlib.sha256(content).hexdigest()[:16]}')"

    def save(self, path: Path) -> None:
        """Write them to a safetensors file, in one step."""
        metadata = {"sigma": repr(self.sigma), "draws": str(self.draws)}
        replace_file(path, save({"mean": self.mean.cpu(), "std": self.std.cpu()}, metadata))

    @staticmethod
    def load(path: Path) -> "OddsStatistics":
        """Read what `save` wrote.

        Raises:
            InputError: the file is not there, or not such a one.
        """
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata() or {}
                return OddsStatistics(
                    file.get_tensor("mean"), file.get_tensor("std"), float(found["sigma"]), int(found["draws"])
                )
        except (SafetensorError, KeyError, ValueError, FileNotFoundError) as error:
            raise InputError(
                f"statistics of odds must be a file of `cannonade calibrate`, {path} cannot be read: {error}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Odds(ModelDefense, name="odds"):
    """Add noise, and doubt a prediction whose log-odds against another class rise more than those of clean images do.

    For the predicted class y and every other z, the change of f_z − f_y under noise, averaged over the draws, is standardised
    by the clean images predicted as y (Roth et al., section 3). Where the largest of them exceeds the quantile `cutoff`
    of N(0, 1), so that there is a threshold for each pair of classes, the image is adversarial; the z it belongs to is the
    corrected prediction. A prediction costs a forward pass and one more for each noise draw, whatever counts it as one.

    The logits are the classifier's, with those of y and the corrected class exchanged where an image is detected. The gradient
    is the classifier's own: detection is a matter of thresholds. `LogitMatching` attacks the detection.

    Attributes:
        statistics: of clean images, or the file of them.
        cutoff: the quantile.
    """

    trainable: ClassVar[bool] = False

    statistics: OddsStatistics | str
    cutoff: float = 0.999

    def __post_init__(self) -> None:
        if isinstance(self.statistics, str):
            object.__setattr__(self, "statistics", OddsStatistics.load(Path(self.statistics)))
        if not 0 < self.cutoff < 1:
            raise InputError(f"odds: cutoff must be in (0, 1), got {self.cutoff}")

    def inside(self, classifier: Network, images: Tensor, draws: Draws) -> Tensor:
        """See `ModelDefense`."""
        logits = classifier(images)
        detected, corrected = self._judge(classifier, images, logits.detach(), draws)
        predicted = logits.detach().argmax(1)
        corrected = torch.where(detected, corrected, predicted)
        order = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits), 1)
        order.scatter_(1, predicted[:, None], corrected[:, None])
        order.scatter_(1, corrected[:, None], predicted[:, None])
        return logits.gather(1, order)

    @torch.no_grad()
    def detects(self, classifier: Network, images: Tensor, draws: Draws) -> Tensor:
        """[N] bool, which images are found adversarial; arguments as in `inside`."""
        return self._judge(classifier, images, classifier(images), draws)[0]

    @torch.no_grad()
    def _judge(self, classifier: Network, images: Tensor, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """[N] bool, which images are adversarial, and [N] int64, the classes they would be corrected to."""
        known = cast(OddsStatistics, self.statistics)
        if len(known.mean) != logits.shape[1]:
            raise InputError(
                f"odds: statistics must be of the classifier's {logits.shape[1]} classes, got {len(known.mean)}"
            )
        changes = odds_changes(classifier, images, logits, draws, sigma=known.sigma, count=known.draws)
        predicted = logits.argmax(1)
        mean, std = (values.to(logits.device)[predicted] for values in (known.mean, known.std))
        scores = ((changes - mean) / std).nan_to_num(nan=-torch.inf)
        scores.scatter_(1, predicted[:, None], -torch.inf)
        highest, corrected = scores.max(1)
        return highest > NormalDist().inv_cdf(self.cutoff), corrected


@torch.no_grad()
def odds_changes(
    classifier: Network, images: Tensor, logits: Tensor, draws: Draws, *, sigma: float, count: int
) -> Tensor:
    """The mean change under noise of every class's log-odds against the predicted one: [N, K] float64, 0 for the predicted.

    Args:
        classifier: maps [N, 3, H, W] to [N, K].
        images: [N, 3, H, W] in [0, 1].
        logits: [N, K], the classifier's for these images.
        draws: N streams; noise draw j is made at place j.
        sigma: standard deviation of the noise.
        count: noise draws, each one pass of N rows.
    """
    total = torch.zeros_like(logits, dtype=torch.float64)
    for number in range(count):
        noise = numbered_stream(draws, number, images.device).normal(0.0, sigma, images.shape[1:])
        total += classifier((images + noise.to(images.dtype)).clamp(0, 1))
    moved = total / count - logits
    return moved - moved.gather(1, logits.argmax(1, keepdim=True))


def calibrate_odds(
    classifier: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    seed: int,
    sigma: float = 30 / 255,
    draws: int = 256,
) -> OddsStatistics:
    """Statistics of clean images, which should be none of those that are attacked later.

    Args:
        classifier: maps [N, 3, H, W] to [N, K].
        batches: images [N, 3, H, W] in [0, 1] and their ids [N] int64, whose noise is drawn in the training phase.
        seed: of the noise.
        sigma: its standard deviation; 30/255 is that of Tramèr et al. (NeurIPS 2020).
        draws: noise draws of an image.

    Raises:
        InputError: there are no images, or sigma or draws are out of range.
    """
    if not sigma > 0:
        raise InputError(f"sigma of odds must be positive, got {sigma}")
    if not 1 <= draws <= _MOST_DRAWS:
        raise InputError(f"draws of odds must be in [1, {_MOST_DRAWS}], got {draws}")
    changes, predicted = [], []
    for images, ids in batches:
        with torch.no_grad():
            logits = classifier(images)
        streams = Draws(seed=seed, phase=Phase.TRAINING, images=ids.cpu(), queries=torch.zeros_like(ids.cpu()))
        changes.append(odds_changes(classifier, images, logits, streams, sigma=sigma, count=draws).cpu())
        predicted.append(logits.argmax(1).cpu())
    if not changes:
        raise InputError("odds must be calibrated on at least one batch of images, got none")
    of_all, classes = torch.cat(changes), torch.cat(predicted)
    mean, std = (of_all.new_full((of_all.shape[1],) * 2, torch.nan) for _ in range(2))
    for label in classes.unique():
        own = of_all[classes == label]
        if len(own) >= _FEWEST:
            mean[label], std[label] = own.mean(0), own.std(0, correction=0)
    return OddsStatistics(mean, std, sigma, draws)
