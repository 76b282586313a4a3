"""Shifts in other colour spaces: the law of their parameters, degenerate images, batches."""

import pytest
import torch
from scipy import stats

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.colour import HsvShift, LabShift, XyzShift, YuvShift

FALSE_ALARM = 1e-4
ENDS = {
    HsvShift: (0.05, 0.25, 0.25),
    LabShift: (5.0, 2.0, 2.0),
    XyzShift: (0.05, 0.05, 0.05),
    YuvShift: (0.05, 0.02, 0.02),
}


def params(transform, count, height=17, width=31):
    ids = torch.arange(count)
    draws = Draws(seed=7, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    return transform.sample(draws, torch.Size((count, 3, height, width)))


@pytest.mark.parametrize("kind", ENDS)
def test_shifts_are_uniform_and_independent(kind):
    shift = params(kind(), 20_000)["shift"].double()
    for channel, end in enumerate(ENDS[kind]):
        assert stats.kstest(shift[:, channel], stats.uniform(-end, 2 * end).cdf).pvalue > FALSE_ALARM / 3
        assert stats.pearsonr(shift[:, channel], shift[:, channel - 1]).pvalue > FALSE_ALARM / 3


@pytest.mark.parametrize("kind", ENDS)
def test_degenerate_images_stay_in_range_with_finite_gradient(kind):
    images = torch.zeros(7, 3, 16, 19)
    images[1], images[2], images[3] = 1.0, 0.5, 0.0031308
    images[4, :, :, 8:] = 1.0
    images[5, 1] = torch.rand(16, 19, generator=torch.Generator().manual_seed(1))
    images[6, 0] = 1.0
    images = images.repeat(8, 1, 1, 1).requires_grad_()
    out = kind().apply(images, params(kind(), len(images)))
    assert ((out >= 0) & (out <= 1)).all()
    assert torch.autograd.grad(out.square().sum(), images)[0].isfinite().all()


@pytest.mark.parametrize("kind", ENDS)
def test_batch_equals_single_images(kind):
    transform, drawn = kind(), params(kind(), 3)
    images = torch.rand(3, 3, 17, 31, generator=torch.Generator().manual_seed(2))
    out = transform.apply(images, drawn)
    tolerance = 1e-6 if kind in (LabShift, XyzShift) else 0.0  # powers: a CPU loop's scalar tail rounds differently
    for row in range(3):
        alone = transform.apply(images[row : row + 1], {"shift": drawn["shift"][row : row + 1]})
        torch.testing.assert_close(out[row], alone[0], rtol=0, atol=tolerance)
    assert transform.apply(images[:0], params(transform, 0)).shape == (0, 3, 17, 31)


def test_hue_is_clipped_and_negative_chroma_is_kept():
    red, blue = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    images = red[None, :, None, None].expand(1, 3, 16, 16)
    shift = {"shift": torch.tensor([[-0.05, 0.0, 0.0]])}
    torch.testing.assert_close(HsvShift().apply(images, shift), images)
    images = blue[None, :, None, None].expand(1, 3, 16, 16)  # b of LAB is −108, V of YUV −0.1
    for transform in (LabShift(), YuvShift()):
        torch.testing.assert_close(
            transform.apply(images, {"shift": torch.zeros(1, 3)}), images.contiguous(), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HsvShift(hue=(0.1, -0.1)), "HsvShift: hue"),
        (lambda: LabShift(lightness=(-101.0, 0.0)), "LabShift: lightness"),
        (lambda: XyzShift(z=(0.0, 2.0)), "XyzShift: z"),
        (lambda: YuvShift(u=(float("nan"), 0.0)), "YuvShift: u"),
    ],
)
def test_wrong_ranges_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
