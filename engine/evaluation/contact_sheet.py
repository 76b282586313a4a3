"""A picture of every transform: three draws each on one photo, with their parameters and the norm of their gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import torch
from torch import Tensor

from cannonade.defenses import DEFENSES
from cannonade.draws import Draws, Phase
from cannonade.evaluation.page import data_uri, eight_bit, render
from cannonade.evaluation.run_directory import RunDirectory
from cannonade.transforms.base import Gradient, Params, Transform

DRAWS = 3


@dataclass(frozen=True)
class Sample:
    """One draw of a transform.

    Attributes:
        image: [3, H, W] in [0, 1].
        caption: its parameters.
        gradient_norm: ‖Jᵀw‖ / ‖w‖ for one random w: 1 for the identity, 0 where no gradient reaches the image.
    """

    image: Tensor
    caption: str
    gradient_norm: float

    @property
    def picture(self) -> str:
        """The image as a data URI."""
        return data_uri(eight_bit(self.image))


@dataclass(frozen=True)
class Row:
    """One transform of the sheet."""

    name: str
    gradient: Gradient
    samples: list[Sample]


def write_contact_sheet(image: Tensor, out: Path, seed: int = 0) -> list[Path]:
    """Draw every transform that can be built without arguments, and its example where it cannot.

    Args:
        image: [3, H, W] in [0, 1].
        out: directory for `transforms.png` and `transforms.html`.
        seed: of the draws.

    Returns:
        The two files.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(name, kind(**kind.example), image, seed) for name, kind in DEFENSES.items()]
    page = render("contact_sheet.html.jinja", rows=rows, seed=seed, size=tuple(image.shape[1:]))
    RunDirectory(out).write_text("transforms.html", page)
    _draw(rows, out / "transforms.png")
    return [out / "transforms.png", out / "transforms.html"]


def _row(name: str, transform: Transform, image: Tensor, seed: int) -> Row:
    ids = torch.zeros(DRAWS, dtype=torch.int64)
    draws = Draws(seed=seed, phase=Phase.ATTACK, images=ids, queries=torch.arange(DRAWS))
    leaf = image.expand(DRAWS, -1, -1, -1).clone().requires_grad_()
    params = transform.sample(draws, leaf.shape)
    out = transform.transform(leaf, params)
    weights = Draws(seed=seed, phase=Phase.START, images=ids, queries=ids).site(0).normal(shape=out.shape[1:])
    (gradient,) = torch.autograd.grad(out, leaf, weights)
    norms = gradient.flatten(1).norm(dim=1) / weights.flatten(1).norm(dim=1)
    return Row(
        name,
        transform.gradient,
        [Sample(out[row].detach(), _caption(transform, params, row), float(norms[row])) for row in range(DRAWS)],
    )


def _caption(transform: Transform, params: Params, row: int) -> str:
    """The row's parameters; for a composed transform, its members in order; streams and tables are left out."""
    members: Sequence[Transform] | None = getattr(transform, "members", None)
    if members is not None:
        return " → ".join(members[step].name for step in params["steps"][row].tolist() if step >= 0)
    small = {key: value[row] for key, value in params.items() if "stream" not in key and value[row].numel() <= 6}
    return ", ".join(f"{key} {_number(value)}" for key, value in small.items())


def _number(value: Tensor) -> str:
    numbers = [f"{number:.3g}" for number in value.double().flatten().tolist()]
    if len(set(numbers)) == 1:
        return numbers[0]
    return "(" + ", ".join(numbers) + ")"


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * DRAWS + 0.4, 3.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), DRAWS, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, sample in zip(line, row.samples, strict=True):
            axis.imshow(sample.image.clamp(0, 1).permute(1, 2, 0).numpy())
            axis.set_axis_off()
            axis.set_title(f"{fill(sample.caption, 46)}\ngradient {sample.gradient_norm:.3g}", fontsize=7)
        line[0].text(0.02, 0.96, row.name, transform=line[0].transAxes, va="top", fontsize=9, weight="bold",
                     bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2})  # fmt: skip
    figure.savefig(path, dpi=110)
