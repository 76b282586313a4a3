"""The odds detector (Roth et al., ICML 2019): an adversarial image gives itself away by how noise moves its logits."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cannonade.defenses.model_side import ModelDefense, Network, numbered_stream
from cannonade.draws import Draws, Phase, Stream
from cannonade.errors import InputError
from cannonade.files import replace_file
from cannonade.spec import parse_number

_FEWEST = 3  # images of a class that its statistics take; with fewer its predictions are never doubted
_MOST_DRAWS = 4032  # places of `numbered_stream`

Kind = Literal["normal", "uniform", "sign"]
_LETTERS: dict[str, Kind] = {"n": "normal", "u": "uniform", "s": "sign"}


@dataclass(frozen=True)
class Noise:
    """One kind of noise, of those in the published code of Roth et al.

    Attributes:
        kind: "normal"; "uniform", between ±scale; or "sign", ±scale with equal chances.
        scale: standard deviation or bound, in units of [0, 1].
    """

    kind: Kind
    scale: float

    def __post_init__(self) -> None:
        if self.kind not in _LETTERS.values():
            raise InputError(f"noise of odds must be normal, uniform or sign, got {self.kind!r}")
        if not 0 < self.scale < float("inf"):
            raise InputError(f"the scale of noise of odds must be positive, got {self.scale}")

    def __str__(self) -> str:
        return f"{self.kind[0]}{self.scale!r}"

    def draw(self, stream: Stream, shape: torch.Size) -> Tensor:
        """Noise of a shape for each stream, [N, …]."""
        if self.kind == "normal":
            return stream.normal(0.0, self.scale, shape)
        noise = stream.uniform(-self.scale, self.scale, shape)
        return noise if self.kind == "uniform" else torch.where(noise < 0, -self.scale, self.scale)


# That of Tramèr et al. (NeurIPS 2020).
ONE_NOISE = (Noise("normal", 30 / 255),)


def parse_noise(text: str) -> Noise:
    """A noise from the first letter of its kind and its scale, as the published code writes it: `n30/255`, `u0.003`."""
    kind = _LETTERS.get(text.strip()[:1])
    if kind is None:
        raise InputError(f"noise must be n, u or s and a scale, such as n30/255, u0.003 or s0.003, got {text!r}")
    return Noise(kind, parse_number(text.strip()[1:], "the scale of noise"))


@dataclass(frozen=True, eq=False)
class OddsStatistics:
    """How noise moves the logits of clean images.

    Attributes:
        mean, std: [E, K, K] float64, for each noise, over the clean images predicted as y, in row y, of the mean over noise
            draws of the log-odds of z against y, less the log-odds without noise, in column z. NaN in the rows of classes
            predicted too rarely.
        noises: E of them; noisy images are clipped to [0, 1].
        draws: draws of each noise for an image.
    """

    mean: Tensor
    std: Tensor
    noises: tuple[Noise, ...]
    draws: int

    def __repr__(self) -> str:
        content = torch.stack((self.mean, self.std)).cpu().numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        return f"OddsStatistics(noises='{self._names()}', draws={self.draws}, sha256='{digest}')"

    def save(self, path: Path) -> None:
        """Write them to a safetensors file, in one step."""
        metadata = {"noises": self._names(), "draws": str(self.draws)}
        replace_file(path, save({"mean": self.mean.cpu(), "std": self.std.cpu()}, metadata))

    def _names(self) -> str:
        return ",".join(map(str, self.noises))

    @staticmethod
    def load(path: Path) -> "OddsStatistics":
        """Read what `save` wrote.

        Raises:
            InputError: the file is not there, or not such a one.
        """
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata() or {}
                noises = tuple(map(parse_noise, found["noises"].split(",")))
                return OddsStatistics(file.get_tensor("mean"), file.get_tensor("std"), noises, int(found["draws"]))
        except (SafetensorError, KeyError, ValueError, FileNotFoundError) as error:
            raise InputError(
                f"statistics of odds must be a file of `cannonade calibrate`, {path} cannot be read: {error}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Odds(ModelDefense, name="odds"):
    """Add noise, and doubt a prediction whose log-odds against another class rise more than those of clean images do.

    For the predicted class y and every other z, the change of f_z − f_y under noise, averaged over the draws, is standardised
    by the clean images predicted as y (Roth et al., section 3), and of several noises the mean is taken, as their published
    code does. Where the largest of them exceeds the quantile `cutoff` of N(0, 1), so that there is a threshold for each pair
    of classes, the image is adversarial; the z it belongs to is the corrected prediction, where that code trains a classifier
    on attacked images. A prediction costs a forward pass and one more for each noise draw, whatever counts it as one.

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
        if known.mean.shape[-1] != logits.shape[1]:
            raise InputError(
                f"odds: statistics must be of the classifier's {logits.shape[1]} classes, got {known.mean.shape[-1]}"
            )
        changes = odds_changes(classifier, images, logits, draws, noises=known.noises, count=known.draws)
        predicted = logits.argmax(1)
        mean, std = (values.to(logits.device)[:, predicted] for values in (known.mean, known.std))
        scores = ((changes - mean) / std).mean(0).nan_to_num(nan=-torch.inf)
        scores.scatter_(1, predicted[:, None], -torch.inf)
        highest, corrected = scores.max(1)
        return highest > NormalDist().inv_cdf(self.cutoff), corrected


@torch.no_grad()
def odds_changes(
    classifier: Network, images: Tensor, logits: Tensor, draws: Draws, *, noises: Sequence[Noise], count: int
) -> Tensor:
    """The mean change under each noise of every class's log-odds against the predicted one: [E, N, K] float64, 0 for the
    predicted.

    Args:
        classifier: maps [N, 3, H, W] to [N, K].
        images: [N, 3, H, W] in [0, 1].
        logits: [N, K], the classifier's for these images.
        draws: N streams; draw j of noise e is made at place e·count + j.
        noises: E of them.
        count: draws of each noise, each one pass of N rows.
    """
    changes = []
    for kind, noise in enumerate(noises):
        total = torch.zeros_like(logits, dtype=torch.float64)
        for number in range(kind * count, (kind + 1) * count):
            drawn = noise.draw(numbered_stream(draws, number, images.device), images.shape[1:])
            total += classifier((images + drawn.to(images.dtype)).clamp(0, 1))
        moved = total / count - logits
        changes.append(moved - moved.gather(1, logits.argmax(1, keepdim=True)))
    return torch.stack(changes)


def calibrate_odds(
    classifier: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    seed: int,
    noises: Sequence[Noise] = ONE_NOISE,
    draws: int = 256,
) -> OddsStatistics:
    """Statistics of clean images, which should be none of those that are attacked later.

    Args:
        classifier: maps [N, 3, H, W] to [N, K].
        batches: images [N, 3, H, W] in [0, 1] and their ids [N] int64, whose noise is drawn in the training phase.
        seed: of the noise.
        noises: one or several.
        draws: draws of each noise for an image.

    Raises:
        InputError: there are no images or no noises, or draws is out of range.
    """
    if not noises:
        raise InputError("odds must be calibrated with at least one noise, got none")
    if not 1 <= draws <= _MOST_DRAWS // len(noises):
        raise InputError(
            f"draws of odds must be in [1, {_MOST_DRAWS // len(noises)}] for {len(noises)} noises, got {draws}"
        )
    changes, predicted = [], []
    for images, ids in batches:
        with torch.no_grad():
            logits = classifier(images)
        streams = Draws(seed=seed, phase=Phase.TRAINING, images=ids.cpu(), queries=torch.zeros_like(ids.cpu()))
        changes.append(odds_changes(classifier, images, logits, streams, noises=noises, count=draws).cpu())
        predicted.append(logits.argmax(1).cpu())
    if not changes:
        raise InputError("odds must be calibrated on at least one batch of images, got none")
    of_all, classes = torch.cat(changes, dim=1), torch.cat(predicted)
    mean, std = (of_all.new_full((len(noises), *(of_all.shape[2],) * 2), torch.nan) for _ in range(2))
    for label in classes.unique():
        own = of_all[:, classes == label]
        if own.shape[1] >= _FEWEST:
            mean[:, label], std[:, label] = own.mean(1), own.std(1, correction=0)
    return OddsStatistics(mean, std, tuple(noises), draws)
