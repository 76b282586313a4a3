"""BaRT: a barrage of random transforms, each image with its own choice, order and parameters (Raff et al., CVPR 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cannonade.defenses.executor import execute, on_rows
from cannonade.defenses.planning import plan, plan_fixed
from cannonade.defenses.program import layouts
from cannonade.draws import Draws
from cannonade.errors import InputError
from cannonade.kernels.backend import carry
from cannonade.spans import span
from cannonade.spec import build
from cannonade.transforms.base import REGISTRY, Gradient, Params, Transform
from cannonade.transforms.colour import HsvShift, LabShift, XyzShift, YuvShift
from cannonade.transforms.contrast import AdaptiveHistogramEqualisation, ContrastStretching, HistogramEqualisation
from cannonade.transforms.denoising import GaussianBlur, MeanBilateralFilter, MeanFilter, MedianFilter
from cannonade.transforms.fft import FftPerturbation
from cannonade.transforms.gao import GaoGaussianBlur, GaoMedianFilter
from cannonade.transforms.grey import GreyScaleMix, GreyScalePartialMix, OneChannelPartialGrey, TwoThirdsGreyScaleMix
from cannonade.transforms.jpeg import JpegNoise
from cannonade.transforms.noise import NoiseInjection
from cannonade.transforms.precision import ColourPrecisionReduction
from cannonade.transforms.restoration import NonLocalMeans, TvChambolle, WaveletDenoising
from cannonade.transforms.swirl import Swirl
from cannonade.transforms.zoom import RandomZoom, SeamCarvingExpansion

GROUPS: tuple[tuple[type[Transform], ...], ...] = (
    (ColourPrecisionReduction,),
    (JpegNoise,),
    (Swirl,),
    (NoiseInjection,),
    (FftPerturbation,),
    (RandomZoom, SeamCarvingExpansion),
    (HsvShift, LabShift, XyzShift, YuvShift),
    (HistogramEqualisation, AdaptiveHistogramEqualisation, ContrastStretching),
    (GreyScaleMix, GreyScalePartialMix, TwoThirdsGreyScaleMix, OneChannelPartialGrey),
    (GaussianBlur, MedianFilter, MeanFilter, MeanBilateralFilter, TvChambolle, WaveletDenoising, NonLocalMeans),
)

_SERIAL = (SeamCarvingExpansion, TvChambolle, NonLocalMeans)

_SITES_AHEAD = 12


def _check_launches(name: str, launches: str) -> None:
    if launches not in ("scheduled", "fixed"):
        raise InputError(f"{name}: launches must be 'scheduled' or 'fixed', got {launches!r}")


@dataclass(frozen=True, kw_only=True)
class BaRT(Transform):
    """k transforms in random order, from k of the groups drawn without replacement, one member of each.

    A program is drawn per image: which transforms, in which order, with which parameters. The batch is executed without a
    barrier between stages: each image moves on as soon as the transform it waits for runs. The gradient is that of the
    members, chained; the clamps have torch.clamp's.

    Attributes:
        k: transforms per image, at most the number of groups (or of transforms where `groups` is off).
        groups: draw groups, then a member of each, as published; else draw transforms regardless of groups. A transform
            outside BaRT's ten groups is a group of its own.
        transforms: what to draw from, transforms or their calls as text; None for all 25.
        clamp: clamp to [0, 1] after every transform, as published.
        random_k: draw the number of transforms too, uniformly in {0, …, k} per image, as published for fine-tuning.
        checkpoint: keep only each step's input and run it again in backward: less memory, a second forward.
        launches: "scheduled" runs each transform for the images that wait for it, which the host reads from their programs.
            "fixed" is one sequence of launches for any programs, k times every transform over the whole batch, from tables on
            the device alone: what a CUDA graph can capture. It is for GPUs, and gives the same bits.
    """

    name: ClassVar[str] = "bart"
    gradient: ClassVar[Gradient] = Gradient.EXACT
    on_host: ClassVar[frozenset[str]] = frozenset({"steps"})

    k: int = 5
    groups: bool = True
    transforms: tuple[Transform | str, ...] | None = None
    clamp: bool = True
    random_k: bool = False
    checkpoint: bool = False
    launches: Literal["scheduled", "fixed"] = "scheduled"

    def __post_init__(self) -> None:
        _check_launches(self.name, self.launches)
        available = len(self._groups)
        if not available:
            raise InputError(f"{self.name}: transforms must hold at least one transform, got none")
        if not 1 <= self.k <= min(available, 25):
            kind = "groups" if self.groups else "transforms"
            raise InputError(f"{self.name}: k must be 1 to {min(available, 25)}, the number of {kind}, got {self.k}")

    @property
    def keeps_range(self) -> bool:
        """With the clamp, or where every member keeps it."""
        return self.clamp or all(member.keeps_range for member in self.members)

    @cached_property
    def members(self) -> tuple[Transform, ...]:
        """The transforms to draw from, built."""
        if self.transforms is None:
            return tuple(kind() for group in GROUPS for kind in group)
        return tuple(build(part, REGISTRY, "transform") if isinstance(part, str) else part for part in self.transforms)

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Positions in `members`, grouped."""
        if not self.groups:
            return [[position] for position in range(len(self.members))]
        grouped: dict[Any, list[int]] = {}
        for position, member in enumerate(self.members):
            own = next((number for number, kinds in enumerate(GROUPS) if type(member) in kinds), (position,))
            grouped.setdefault(own, []).append(position)
        return list(grouped.values())

    @cached_property
    def probabilities(self) -> tuple[float, ...]:
        """Of each of `members`, that it is one of an image's program: they add up to k, or to k/2 with `random_k`."""
        length = self.k / 2 if self.random_k else self.k
        shares = {position: length / len(self._groups) / len(group) for group in self._groups for position in group}
        return tuple(shares[position] for position in range(len(self.members)))

    @cached_property
    def _serial(self) -> set[int]:
        """Positions in `members` of transforms whose cost hardly depends on the number of images."""
        return {position for position, member in enumerate(self.members) if isinstance(member, _SERIAL)}

    def sample(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw a program per image.

        Returns:
            "steps" [N, k] int64, positions in `members` in the order they are applied, −1 for none; "floats" [N, k, P] float32
            and "ints" [N, k, Q] int64, each step's parameters as its transform's own `sample` lays them out.
        """
        steps = self._choose(draws)
        tables = layouts(self.members, shape[2:])
        count = steps.numel()
        floats = torch.zeros(count, max(layout.floats for layout in tables), device=steps.device)
        ints = torch.zeros(count, max(layout.ints for layout in tables), dtype=torch.int64, device=steps.device)
        streams = draws.parts(self.k).ahead(_SITES_AHEAD)
        flat = steps.flatten()
        for position, layout in enumerate(tables):
            rows = (flat == position).nonzero()[:, 0]
            if len(rows):
                params = self.members[position].sample(streams[rows], torch.Size((len(rows), *shape[1:])))
                layout.pack(params, rows, floats, ints)
        return {
            "steps": steps,
            "floats": floats.unflatten(0, steps.shape),
            "ints": ints.unflatten(0, steps.shape),
        }

    def _choose(self, draws: Draws) -> Tensor:
        """[N, k] positions in `members`."""
        order = draws.site(0).permutation(len(self._groups))[:, : self.k]
        sizes = torch.tensor([len(group) for group in self._groups], device=order.device)
        widest = max(map(len, self._groups))
        table = torch.tensor([group + [0] * (widest - len(group)) for group in self._groups], device=order.device)
        picked = draws.site(1).integers(0, sizes[order] - 1, (self.k,))
        steps = table[order, picked]
        if self.random_k:
            length = draws.site(2).integers(0, self.k)
            steps = steps.masked_fill(torch.arange(self.k, device=steps.device) >= length[:, None], -1)
        return steps

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """Execute each image's program.

        Raises:
            InputError: launches="fixed" where there is no GPU for it, or with a transform that has no launchers.
        """
        by_rows, size = on_rows(images), images.shape[2:]
        if self.launches == "fixed" and not by_rows:
            raise InputError(
                f'{self.name}: launches="fixed" needs Triton and float32 images on a GPU, got {images.dtype} on '
                f'{images.device}; use launches="scheduled"'
            )
        with span("schedule"):
            if self.launches == "fixed":
                params = {**params, "steps": carry(params["steps"], images.device)}
                launches = plan_fixed(self.members, params, size, self.clamp)
            else:
                launches = plan(self.members, params, size, serial=self._serial, clamp=self.clamp, by_rows=by_rows)
        return execute(images, launches, self.checkpoint)

    def program(self, params: Params, row: int, shape: torch.Size) -> list[tuple[Transform, Params]]:
        """One image's program: its transforms in order, each with its parameters (of first dimension 1).

        Args:
            params: what `sample` returned.
            row: of the image.
            shape: of the images.
        """
        tables = layouts(self.members, shape[2:])
        steps = [(stage, step) for stage, step in enumerate(params["steps"][row].tolist()) if step >= 0]
        return [
            (self.members[step], tables[step].unpack(params["floats"][row, [stage]], params["ints"][row, [stage]]))
            for stage, step in steps
        ]


@dataclass(frozen=True, kw_only=True)
class BartGao(BaRT):
    """BaRT as the paper's section 6.3 ran it: the first k of six transforms, all applied, in random order per image.

    Noise injection, Gaussian blur, median, swirl, colour precision and FFT, with the authors' parameter laws, no clamp in
    between, and the identity as backward of everything (BPDA).

    Attributes:
        k: 1 to 6.
        groups, transforms, clamp, backward: as in `BaRT`; their defaults make the preset.
        launches: as in `BaRT`.
    """

    name: ClassVar[str] = "bart_gao"

    backward: Literal["own", "identity"] = "identity"
    k: int = 6
    groups: bool = False
    clamp: bool = False

    def __post_init__(self) -> None:
        _check_launches(self.name, self.launches)
        if not 1 <= self.k <= 6:
            raise InputError(f"bart_gao: k must be 1 to 6, the number of its transforms, got {self.k}")

    @cached_property
    def members(self) -> tuple[Transform, ...]:
        """The first k of the six."""
        six: Sequence[Transform] = (
            NoiseInjection(),
            GaoGaussianBlur(),
            GaoMedianFilter(),
            Swirl(centre=(1, 200), reference_size=None),
            ColourPrecisionReduction(scale=(8, 199), shared=0.0),
            FftPerturbation(),
        )
        return tuple(six[: self.k])
