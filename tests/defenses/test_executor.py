"""Programs on rows of one buffer do what they do transform by transform."""

import pytest
import torch

from cannonade.defenses import executor
from cannonade.defenses.bart import BaRT
from cannonade.draws import Draws, Phase
from cannonade.transforms.base import Transform
from cannonade.transforms.denoising import GaussianBlur

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
    monkeypatch.setattr(Transform, "step", lambda *_: None)
    monkeypatch.setattr(GaussianBlur, "step", lambda *_: None)
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
def test_launchers_in_programs(on_rows, monkeypatch, device):
    """Transforms with launchers between some without, in every order."""
    bart = BaRT(k=3, transforms=("gaussian_blur(sigma=(0.1, 0.7))", "yuv_shift", "colour_precision_reduction"))
    x = images(9, 14).to(device)
    ours = run(bart, x)
    monkeypatch.setattr(executor, "choose", lambda *_, **__: "torch")
    for own, expected in zip(ours, run(bart, x), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
