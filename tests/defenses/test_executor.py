"""Programs on rows of one buffer do what they do transform by transform."""

from dataclasses import replace

import pytest
import torch

from cannonade.defenses import executor
from cannonade.defenses.bart import BaRT
from cannonade.defenses.program import Turn, layouts, schedule, turns
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import Transform

COUNT = 5


def draws():
    ids = torch.arange(COUNT)
    return Draws(seed=3, phase=Phase.ATTACK, images=ids, queries=torch.zeros_like(ids))


def images(*size):
    return torch.rand(COUNT, 3, *size, generator=torch.Generator().manual_seed(0))


def run(bart, x):
    """Result, result without gradient, and the gradient of two backward passes."""
    leaf = x.clone().requires_grad_()
    out = bart(leaf, draws())
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    first, second = (torch.autograd.grad(out, leaf, weights, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        return out.detach(), bart(x, draws()), first


@pytest.fixture
def on_rows(monkeypatch):
    """Take the route of a GPU."""
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "triton")


@pytest.mark.parametrize("settings", [{}, {"random_k": True}, {"checkpoint": True}, {"clamp": False}], ids=str)
def test_rows_of_a_buffer_hold_the_same_bits(on_rows, monkeypatch, settings):
    bart, x = BaRT(k=4, **settings), images(32, 32)
    for kind in (*BaRT(k=1).members, Transform):
        monkeypatch.setattr(kind if isinstance(kind, type) else type(kind), "step", lambda *_: None)
        monkeypatch.setattr(kind if isinstance(kind, type) else type(kind), "operation", None)
    ours = run(bart, x)
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "torch")
    for own, expected in zip(ours, run(bart, x), strict=True):
        assert torch.equal(own, expected)


def test_no_images_and_empty_programs(on_rows):
    bart = BaRT(k=1, random_k=True)
    assert bart(images(32, 32)[:0], draws()[:0]).shape == (0, 3, 32, 32)
    nothing = BaRT(k=1, transforms=("identity",))
    params = dict(nothing.sample(draws(), images(32, 32).shape))
    params["steps"] = torch.full_like(params["steps"], -1)
    x = images(32, 32).requires_grad_()
    out = nothing.apply(x, params)
    assert torch.equal(out, x)
    assert torch.equal(torch.autograd.grad(out.square().sum(), x)[0], 2 * x)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "name",
    [
        "median_filter(radius=(1, 2))",
        "mean_filter(radius=(1, 2))",
        "mean_bilateral_filter(radius=(1, 2), spread=(20, 90))",
        "jpeg_noise",
        "wavelet_denoising(wavelets=('haar', 'db2'))",
        "lab_shift",
        "gao_gaussian_blur(sides=(3, 5))",
        "gao_median_filter(sides=(3, 5))",
        "noise_injection(modes=('poisson', 'speckle', 'poisson'))",
        "noise_injection(modes=('poisson',), levels='distinct')",
        "noise_injection(modes=('poisson',), levels=20000)",
        "swirl",
        "random_zoom",
        "rotation",
        "random_crop_rescale",
    ],
)
def test_every_step_does_what_its_transform_does(on_rows, monkeypatch, device, name):
    bart = BaRT(k=1, groups=False, transforms=(name,))
    x = images(8, 10).to(device)[:2]
    ids = torch.arange(2)
    own = Draws(seed=3, phase=Phase.ATTACK, images=ids, queries=ids)
    results = []
    for route in ("triton", "torch"):
        monkeypatch.setattr(executor, "choose", lambda *_, route=route, **__: route)
        leaf = x.clone().requires_grad_()
        out = bart(leaf, own)
        results.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.interpreter
def test_launchers_in_programs(on_rows, monkeypatch, device):
    """Transforms with launchers and one without, in every order; colour operations run together, several in one pass."""
    names = (
        "gaussian_blur(sigma=(0.1, 0.7))",
        "yuv_shift",
        "grey_scale_mix",
        "random_zoom",
        "noise_injection(modes=('salt',))",
    )
    bart = BaRT(k=4, groups=False, transforms=names, random_k=True)
    x = images(9, 14).to(device)
    ours = run(bart, x)
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "torch")
    for own, expected in zip(ours, run(bart, x), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)


FIXED = ("gaussian_blur(sigma=(0.1, 0.7))", "yuv_shift", "grey_scale_mix", "jpeg_noise", "mean_filter(radius=(1, 2))")


@pytest.mark.interpreter
@pytest.mark.parametrize("settings", [{"random_k": True}, {"backward": "identity"}], ids=str)
def test_a_fixed_sequence_of_launches_gives_the_same_bits(on_rows, device, settings):
    bart, x = BaRT(k=3, groups=False, transforms=FIXED, **settings), images(8, 10).to(device)
    fixed = replace(bart, launches="fixed")
    for own, expected in zip(run(fixed, x), run(bart, x), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.interpreter
def test_a_fixed_sequence_takes_any_programs(on_rows, device):
    """The same transform twice, steps left out in between, no step at all, and no image."""
    bart, x = BaRT(k=3, groups=False, transforms=FIXED), images(8, 10).to(device)
    params = dict(bart.sample(draws(), x.shape))
    params["steps"] = torch.tensor([[0, 0, 1], [-1, 2, -1], [-1, -1, -1], [4, -1, 4], [1, 2, 1]])
    for row, stage in (params["steps"] >= 0).nonzero().tolist():
        step, at = int(params["steps"][row, stage]), torch.tensor([row])
        own = bart.members[step].sample(draws()[at], torch.Size((1, *x.shape[1:])))
        tables = params["floats"][:, stage], params["ints"][:, stage]
        layouts(bart.members, x.shape[2:])[step].pack(own, at, *tables)
    results = [kind.apply(x, params) for kind in (bart, replace(bart, launches="fixed"))]
    assert torch.equal(*results)
    assert replace(bart, launches="fixed")(x[:0], draws()[:0]).shape == (0, 3, 8, 10)


def test_a_fixed_sequence_says_what_it_cannot_do(on_rows, monkeypatch):
    params = {"launches": "fixed", "k": 1, "groups": False}
    with pytest.raises(InputError, match="smoothing cannot be run so"):
        BaRT(transforms=("smoothing", "gaussian_blur"), **params)(images(8, 10), draws())
    with pytest.raises(InputError, match="launches must be 'scheduled' or 'fixed', got 'often'"):
        BaRT(launches="often")
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "torch")
    with pytest.raises(InputError, match='launches="fixed" needs Triton and float32 images on a GPU'):
        BaRT(transforms=("gaussian_blur",), **params)(images(8, 10), draws())


def test_consecutive_colour_operations_are_one_turn():
    assert turns([3, 1, 2, -1, 5], {1, 2, 5}) == [Turn(3, 0, (3,)), Turn(1, 1, (1, 2)), Turn(1, 4, (5,))]
    assert turns([1, 2, 5], {1, 2, 5}) == [Turn(1, 0, (1, 2, 5))]
    assert turns([1, 1], set()) == [Turn(1, 0, (1,)), Turn(1, 1, (1,))]
    steps = torch.tensor([[3, 1, 2], [1, 2, 3], [2, 3, 1]])
    order = [(key, rows, [turn.steps for turn in own]) for key, rows, own in schedule(steps, (), {1, 2})]
    assert order == [
        (1, [1, 2], [(1, 2), (2,)]),
        (3, [0, 1, 2], [(3,)] * 3),
        (1, [0, 2], [(1, 2), (1,)]),
    ]
