"""The paper's Table 2: five stochastic defenses, the attack that broke each with EOT, and the ablation without.

Guo, Xie and Dhillon follow the attacks of Athalye et al. (ICML 2018), Xiao and Roth those of Tramèr et al. (NeurIPS 2020), as
their published code has them, and the paper's Table 2 for the ablations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cannonade.attacks.attack import Attack
from cannonade.attacks.eot import EOT
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.logit_matching import LogitMatching
from cannonade.attacks.pgd import PGD

Scale = Literal["full", "small"]
Criterion = Literal["none of 30 fresh predictions is right", "one prediction is wrong", "wrong and not detected"]

_SMALL_SIDE = 128  # of ImageNet's rows


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run a row.

    Attributes:
        side: of the images in pixels; None for that of the classifier.
        with_eot, without_eot: the original attack, and the ablation.
        calibration: clean images that the odds detector is calibrated on.
        votes: n, of our vote.
        changes: what differs from the original, one sentence each.
    """

    side: int | None
    with_eot: Attack
    without_eot: Attack
    calibration: int = 1000
    votes: int = 500
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of Table 2.

    Attributes:
        title: the defense and who proposed it.
        defense: its call, by the side of the images; None for the odds detector, which is calibrated first.
        published: the paper's success rates with and without EOT.
        criterion: when the original counts an image as broken.
        settings: by scale.
    """

    title: str
    defense: Callable[[int], str] | None
    published: tuple[float, float]
    criterion: Criterion
    settings: dict[Scale, Setting]


_EPS = 8 / 255
_GUO = PGD(
    eps=0.05 * 299, norm="l2", steps=1000, step_size=0.1, direction="gradient", stop=True, gradient=EOT(samples=30)
)
_XIE = PGD(eps=_EPS, steps=1000, step_size=0.1, direction="gradient", stop=True, gradient=EOT(samples=30))
_DHILLON = PGD(
    eps=_EPS, steps=500, step_size=0.1 / 255, loss="margin", direction="adam", gradient=EOT(samples=10)
)  # fmt: skip
_XIAO = PGD(
    eps=_EPS, steps=100, step_size=0.01, loss="margin", freeze_every=1, selection_votes=1,
    gradient=FiniteDifferences(pairs=500, sigma=8 / 255, clip=False),
)  # fmt: skip
_ROTH = LogitMatching(eps=_EPS, steps=100, step_size=0.2 / 255, noise=30 / 255, gradient=EOT(samples=40))
_ONE = EOT(samples=1)

_NO_PENALTY = (
    "the penalty 1e-6·max(‖δ‖ − ε, 0) has no gradient at the image and is left out; projection keeps the L2 ball"
)
_IN_PIXELS = "the original's learning rate .1 is in units of 0 … 255, ours is .1/255"
_AFTER_RELU = (
    "2 samples an activation as in the code attacked, but after ReLUs, where that code prunes after convolutions"
)
_SMALLER = f"images of {_SMALL_SIDE} pixels instead of 299"
_OWN_GRADIENT = "the ablation follows the network's own gradient, and every 100 steps leaves alone what is broken"
_SAME_M = "m is the same at every step, as in the paper's table; in the published code it rises from 100 to 20000"
_NO_STOP = "the ablation never stops early: one draw that is wrong says little"


def _resize_pad(side: int) -> str:
    """299 to 331 pixels at the original side."""
    top = round(side * 331 / 299)
    return f"random_resize_pad(low={side}, high={top}, pad={top}, fill=0.5)"


ROWS: dict[str, Row] = {
    "guo": Row(
        title="random cropping and rescaling (Guo et al., ICLR 2018)",
        defense=lambda side: "random_crop_rescale(crop=90, reference_size=299)",
        published=(1.0, 0.99),
        criterion="none of 30 fresh predictions is right",
        settings={
            "full": Setting(
                side=299,
                with_eot=_GUO,
                without_eot=replace(_GUO, step_size=0.001, stop=False, gradient=_ONE),
                changes=(_NO_PENALTY, _NO_STOP),
            ),
            "small": Setting(
                side=_SMALL_SIDE,
                with_eot=replace(
                    _GUO, eps=0.05 * _SMALL_SIDE, steps=100, step_size=0.01, stop=False, gradient=EOT(samples=3)
                ),
                without_eot=replace(_GUO, eps=0.05 * _SMALL_SIDE, steps=100, step_size=0.01, stop=False, gradient=_ONE),
                votes=50,
                changes=(
                    _NO_PENALTY,
                    f"{_SMALLER}, ε and crop in proportion",
                    "k = 100 and m = 3 instead of 1000 and 30; in the ablation 100 steps instead of 1000",
                    "steps of .01, not .1 (.001 in the ablation): along gradients of norm 50, which a network trained on the "
                    "defense has here, those of .1 leap over the ball",
                    "neither attack stops early: 3 draws that are wrong, or 1, in place of 30 say little",
                ),
            ),
        },
    ),
    "xie": Row(
        title="random resizing and padding (Xie et al., ICLR 2018)",
        defense=_resize_pad,
        published=(1.0, 1.0),
        criterion="none of 30 fresh predictions is right",
        settings={
            "full": Setting(
                side=299,
                with_eot=_XIE,
                without_eot=replace(_XIE, steps=200, stop=False, gradient=_ONE),
                changes=(_NO_STOP,),
            ),
            "small": Setting(
                side=_SMALL_SIDE,
                with_eot=replace(_XIE, steps=100, stop=False, gradient=EOT(samples=3)),
                without_eot=replace(_XIE, steps=200, stop=False, gradient=_ONE),
                votes=50,
                changes=(
                    f"{_SMALLER}, sides and pad in proportion",
                    "k = 100 and m = 3 instead of 1000 and 30; the ablation is whole",
                    "neither attack stops early: 3 draws that are wrong, or 1, in place of 30 say little",
                ),
            ),
        },
    ),
    "dhillon": Row(
        title="stochastic activation pruning (Dhillon et al., ICLR 2018)",
        defense=lambda side: "activation_pruning(samples=2)",
        published=(1.0, 1.0),
        criterion="one prediction is wrong",
        settings={
            "full": Setting(
                side=None,
                with_eot=_DHILLON,
                without_eot=replace(_DHILLON, gradient=_ONE),
                changes=(_IN_PIXELS, _AFTER_RELU),
            ),
            "small": Setting(
                side=None,
                with_eot=replace(_DHILLON, steps=50, step_size=0.5 / 255, gradient=EOT(samples=5)),
                without_eot=replace(_DHILLON, steps=50, step_size=0.5 / 255, gradient=_ONE),
                votes=50,
                changes=(
                    _IN_PIXELS,
                    _AFTER_RELU,
                    "k = 50 and m = 5 instead of 500 and 10, learning rate .5/255 instead of .1/255",
                ),
            ),
        },
    ),
    "xiao": Row(
        title="k-winners-take-all (Xiao et al., ICLR 2020)",
        defense=lambda side: "kwta(fraction=0.1, first=1)",
        published=(1.0, 0.984),
        criterion="one prediction is wrong",
        settings={
            "full": Setting(
                side=None,
                with_eot=_XIAO,
                without_eot=replace(_XIAO, steps=40_000, step_size=0.1 / 255, freeze_every=100, gradient=_ONE),
                votes=1,
                changes=(_OWN_GRADIENT, _SAME_M),
            ),
            "small": Setting(
                side=None,
                with_eot=replace(_XIAO, gradient=FiniteDifferences(pairs=50, sigma=8 / 255, clip=False)),
                without_eot=replace(_XIAO, steps=4000, step_size=0.1 / 255, freeze_every=100, gradient=_ONE),
                votes=1,
                changes=(
                    _OWN_GRADIENT,
                    _SAME_M,
                    "m = 100 instead of 1000; the ablation has 4000 steps instead of 40000",
                ),
            ),
        },
    ),
    "roth": Row(
        title="the odds detector (Roth et al., ICML 2019)",
        defense=None,
        published=(1.0, 0.961),
        criterion="wrong and not detected",
        settings={
            "full": Setting(
                side=None,
                with_eot=_ROTH,
                without_eot=replace(_ROTH, steps=4000, step_size=0.1 / 255, gradient=_ONE),
                changes=("the gradient without noise that the original adds to the 40 is left out",),
            ),
            "small": Setting(
                side=None,
                with_eot=replace(_ROTH, gradient=EOT(samples=8)),
                without_eot=replace(_ROTH, steps=800, step_size=0.1 / 255, gradient=_ONE),
                calibration=300,
                votes=1,
                changes=(
                    "the gradient without noise that the original adds to the others is left out",
                    "m = 8 instead of 40; the ablation has 800 steps instead of 4000",
                    "calibrated on 300 images instead of 1000",
                ),
            ),
        },
    ),
}
