"""What every registered transform promises; a new one is tested by being written."""

import copy
import pickle

import pytest
import torch

import cannonade.defenses  # noqa: F401  # registers the composed ones too
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import REGISTRY, Gradient

NAMES = sorted(REGISTRY)
# Convolutions, Fourier transforms and matrix products round differently in another batch.
ROUNDED = 2e-6


def make(name, **changes):
    kind = REGISTRY[name]
    return kind(**kind.example, **changes)


def draws_for(count, seed=0, first=0):
    ids = torch.arange(first, first + count)
    return Draws(seed=seed, phase=Phase.ATTACK, images=ids, queries=torch.full_like(ids, 3))


def noise_images(count, height=40, width=36, dtype=torch.float32):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def degenerate():
    """Constant, black, white, grey, two-valued, and a photo-like one with one constant channel: [7, 3, 40, 36]."""
    noisy = noise_images(1)[0]
    flat = torch.full_like(noisy, 0.37)
    two = (noisy > 0.5).float()
    grey = noisy.mean(0, keepdim=True).expand_as(noisy)
    one_constant = torch.cat((noisy[:2], flat[:1]))
    return torch.stack((flat, flat * 0, flat * 0 + 1, flat * 0 + 0.5, two, grey, one_constant))


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name):
    kind = REGISTRY[name]
    assert kind.__doc__
    assert isinstance(kind.gradient, Gradient)
    assert "gradient" in kind.__doc__.lower() or "backward" in kind.__doc__.lower()


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_single_images(name):
    transform, images = make(name), noise_images(5)
    whole_params = transform.sample(draws_for(5), images.shape)
    whole = transform.transform(images, whole_params)
    for row in range(5):
        one = images[row : row + 1]
        params = transform.sample(draws_for(1, first=row), one.shape)
        for key, value in params.items():
            assert torch.equal(value[0], whole_params[key][row]), key
        torch.testing.assert_close(transform.transform(one, params)[0], whole[row], rtol=0, atol=ROUNDED)


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_images_stay_finite(name):
    transform, images = make(name), degenerate()
    for seed in range(4):
        leaf = images.clone().requires_grad_()
        out = transform(leaf, draws_for(len(images), seed))
        assert out.isfinite().all()
        if transform.keeps_range:
            assert out.min() >= 0
            assert out.max() <= 1
        (gradient,) = torch.autograd.grad((out * noise_images(1, *out.shape[2:])).sum(), leaf)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(17, 31), (16, 16), (50, 33)])
def test_odd_sizes(name, shape):
    transform = make(name)
    images = noise_images(3, *shape)
    out = transform(images, draws_for(3))
    assert out.isfinite().all()
    assert out.shape[:2] == images.shape[:2]


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch(name):
    transform = make(name)
    images = noise_images(0)
    out = transform(images, draws_for(0))
    assert out.shape[:2] == (0, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precision_in_is_precision_out(name, dtype):
    transform = make(name)
    images = noise_images(2).to(dtype)
    out = transform(images, draws_for(2))
    assert out.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(out, transform(images.float(), draws_for(2)).to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_alone_and_layout_does_not_matter(name):
    transform = make(name)
    images = noise_images(2)
    before = images.clone()
    expected = transform(images, draws_for(2))
    assert torch.equal(images, before)
    strided = torch.empty(2, 40, 36, 3).permute(0, 3, 1, 2).copy_(images)
    torch.testing.assert_close(transform(strided, draws_for(2)), expected, rtol=0, atol=ROUNDED)
    expanded = images[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(
        transform(expanded, draws_for(2)), transform(expanded.contiguous(), draws_for(2)), rtol=0, atol=ROUNDED
    )


@pytest.mark.parametrize("name", NAMES)
def test_second_backward_equals_the_first(name):
    transform = make(name)
    leaf = noise_images(2).requires_grad_()
    out = transform(leaf, draws_for(2))
    first, second = (torch.autograd.grad(out.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    weights = torch.ones_like(out)  # the gradient of sum() is expanded from one number; this one is not
    torch.testing.assert_close(torch.autograd.grad(out, leaf, weights)[0], first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_identity_backward(name):
    transform, own = make(name, backward="identity"), make(name)
    leaf = noise_images(2).requires_grad_()
    out = transform(leaf, draws_for(2))
    assert torch.equal(out, own(leaf, draws_for(2)))
    if out.shape == leaf.shape:
        weights = noise_images(2).flip(3)
        assert torch.equal(torch.autograd.grad(out, leaf, weights)[0], weights)


@pytest.mark.parametrize("name", NAMES)
def test_same_draws_same_bits_other_draws_other_images(name):
    transform, images = make(name), noise_images(4)
    first = transform(images, draws_for(4))
    assert torch.equal(transform(images, draws_for(4)), first)
    if name not in ("identity", "bit_depth_reduction", "jpeg", "dct"):
        others = [transform(images, draws_for(4, seed)) for seed in (1, 2, 3)]
        assert any(other.shape != first.shape or not torch.equal(other, first) for other in others)


@pytest.mark.parametrize("name", NAMES)
def test_a_large_batch(name):
    transform = make(name)
    out = transform(noise_images(1, 16, 16).expand(512, -1, -1, -1), draws_for(512))
    assert len(out) == 512
    assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name):
    transform = make(name)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert other == transform
        assert torch.equal(other(noise_images(2), draws_for(2)), transform(noise_images(2), draws_for(2)))
    assert type(transform).__name__ in repr(transform)


@pytest.mark.parametrize("name", ["noise_injection", "fft_perturbation", "bart"])
def test_clamps_pass_the_gradient_of_black_and_white(name):
    """The photo's own black and white lie on the clamp's bounds, where torch.clamp has no gradient since 2.14."""
    from cannonade.kernels.pointwise import clip

    leaf = torch.tensor([0.0, 1.0, 0.5, -0.1, 1.1], requires_grad=True)
    assert torch.autograd.grad(clip(leaf).sum(), leaf)[0].tolist() == [1, 1, 1, 0, 0]
    extremes = (noise_images(8) > 0.5).float().requires_grad_()
    transform = make(name, modes=("salt",), amount=0.0) if name == "noise_injection" else make(name)
    (gradient,) = torch.autograd.grad(transform(extremes, draws_for(8)).sum(), extremes)
    assert (gradient != 0).any(dim=(1, 2, 3)).sum() >= 6


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_not_rgb_are_refused_by_name(name):
    transform = make(name)
    params = transform.sample(draws_for(2), torch.Size((2, 3, 40, 36)))
    for images in (noise_images(2)[:, :1], torch.rand(2, 4, 40, 36), noise_images(2)[0], noise_images(2).int()):
        with pytest.raises(InputError, match=rf"{name}: images must be RGB floats \[N, 3, H, W\]"):
            transform.transform(images, params)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 1), (5, 6)])
def test_tiny_images_work_or_are_refused_by_name(name, shape):
    transform, images = make(name), noise_images(4, *shape)
    names = {name, type(transform).__name__}
    for member in getattr(transform, "members", ()):
        names |= {member.name, type(member).__name__}
    refusal = ""
    try:
        out = transform(images, draws_for(4))
    except InputError as error:
        refusal = str(error)
    assert any(known in refusal for known in names) if refusal else out.isfinite().all()
