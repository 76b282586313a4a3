"""Starts, steps and projections of each norm."""

import pytest
import torch
from scipy import stats

from cannonade.attacks.norms import NORMS, project_l1, sparse_step
from cannonade.draws import Draws, Phase

SHAPE = torch.Size((200, 3, 5, 7))
IDS = torch.arange(200)
DRAWS = Draws(seed=5, phase=Phase.START, images=IDS, queries=torch.zeros_like(IDS))


def noise(scale=1.0, dtype=torch.float32):
    return DRAWS.site(3).normal(shape=SHAPE[1:]).to(dtype) * scale


def photos(dtype=torch.float32):
    """Random images with black and white pixels among them."""
    return (DRAWS.site(4).uniform(-0.2, 1.2, shape=SHAPE[1:])).clamp(0, 1).to(dtype)


@pytest.mark.parametrize("name", NORMS)
def test_start_fills_the_ball(name):
    """Uniform in the ball: u = (distance/eps)^d for L2 and L1, each coordinate for Linf; KS at false alarm 1e-4."""
    norm, eps = NORMS[name], 0.5
    start = norm.start(SHAPE, eps, DRAWS)
    assert norm.distance(start).max() <= eps * (1 + 1e-6)
    if name == "linf":
        assert stats.kstest(((start / eps + 1) / 2).flatten().numpy(), "uniform").pvalue > 1e-4
        return
    distance = norm.distance(start)
    assert stats.kstest(((distance / eps) ** 105).numpy(), "uniform").pvalue > 1e-4
    direction = (start / distance.float()[:, None, None, None]).flatten()
    if name == "l2":
        assert stats.kstest((direction * 105**0.5).numpy(), "norm").pvalue > 1e-4
    else:  # a coordinate of a point on the sphere of L1: P(|z| > t) = (1 − t)^104
        assert stats.kstest((1 - (1 - direction.abs()) ** 104).numpy(), "uniform").pvalue > 1e-4
        assert stats.binomtest(int((direction > 0).sum()), len(direction)).pvalue > 1e-4


@pytest.mark.parametrize("name", NORMS)
def test_step_has_norm_one_and_ascends(name):
    gradient = noise()
    step = NORMS[name].step(gradient)
    assert torch.allclose(NORMS[name].distance(step), torch.ones(200, dtype=torch.float64), atol=1e-6)
    assert ((step * gradient).flatten(1).sum(1) > 0).all()
    assert not NORMS[name].step(torch.zeros(2, 3, 4, 4)).any()


@pytest.mark.parametrize("name", NORMS)
def test_projection(name):
    norm, eps = NORMS[name], 0.1
    projected = norm.project(noise(), eps)
    assert norm.distance(projected).max() <= eps * (1 + 1e-6)
    inside = projected * 0.5
    assert torch.equal(norm.project(inside, eps), inside)
    assert not norm.project(torch.zeros(1, 3, 4, 4), eps).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 30.0])
@pytest.mark.parametrize("name", NORMS)
def test_confined_points_are_in_ball_and_box(name, scale, dtype):
    norm, eps, images = NORMS[name], 0.4, photos(dtype)
    points = norm.confine(images, noise(scale, dtype), eps)
    assert norm.distance(points - images).max() <= eps * (1 + 1e-5)
    assert points.min() >= 0
    assert points.max() <= 1
    again = norm.confine(images, points - images, eps)
    torch.testing.assert_close(again, points, rtol=0, atol=1e-6)
    assert torch.equal(norm.confine(images, torch.zeros_like(images), eps), images)
    assert torch.equal(norm.confine(images, noise(scale, dtype), 0.0), images)


@pytest.mark.parametrize("name", ["linf", "l1"])
def test_confined_points_are_the_nearest(name):
    """No convex combination with another point of ball and box is nearer (the variational inequality)."""
    norm, eps, images = NORMS[name], 0.7, photos(torch.float64)
    wanted = noise(0.2, torch.float64)
    nearest = norm.confine(images, wanted, eps) - images
    for site in (6, 7, 8):
        others = DRAWS.site(site).normal(shape=SHAPE[1:]).double()
        other = norm.confine(images, others * 0.05, eps) - images
        assert (((wanted - nearest) * (other - nearest)).flatten(1).sum(1) <= 1e-9).all()


@pytest.mark.parametrize("eps", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
def test_l1_projection_equals_the_authors(scale, eps):
    """Within what their float32 sums lose: they exceed eps by up to 3e-4 of it on these."""
    from pyautoattack.autopgd_base import L1_projection

    images, wanted = photos(), noise(scale)
    theirs = (wanted + L1_projection(images, wanted, eps)).double()
    ours = NORMS["l1"].confine(images, wanted, eps).double() - images.double()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
    assert NORMS["l1"].distance(ours).max() <= eps * (1 + 1e-5)


def test_l1_projection_of_single_images_is_that_of_the_batch():
    images, wanted = photos(), noise(0.3)
    wanted[3] = 1e3
    wanted[5] = 0
    whole = NORMS["l1"].confine(images, wanted, 0.5)
    for row in range(8):
        one = slice(row, row + 1)
        assert torch.equal(NORMS["l1"].confine(images[one], wanted[one], 0.5), whole[one])


def test_l1_projection_leaves_no_room_unused():
    """An image without room in most directions spends eps where there is some."""
    images = torch.zeros(1, 3, 4, 4)
    wanted = torch.full_like(images, -1.0)
    wanted[0, 0, 0] = 0.01
    points = NORMS["l1"].confine(images, wanted, 0.03)
    torch.testing.assert_close(points.sum(), torch.tensor(0.03))
    room = torch.where(wanted > 0, 1 - images, images)
    assert torch.equal(project_l1(wanted, 0.03, room) > 0, wanted > 0)


def test_sparse_step_takes_the_largest_coordinates():
    gradient = noise()
    share = torch.linspace(0, 1, 200)
    step = sparse_step(gradient, share).flatten(1)
    count = (105 * share).floor().clamp(1, 105)
    assert ((step != 0).sum(1) - count).abs().max() <= 1
    sizes = gradient.flatten(1).abs()
    smallest_moved = torch.where(step != 0, sizes, torch.inf).amin(1)
    largest_left = torch.where(step == 0, sizes, 0).amax(1)
    assert (smallest_moved >= largest_left).all()
    assert torch.equal(step.sign()[step != 0], gradient.flatten(1).sign()[step != 0])


def test_sparse_step_never_moves_where_the_gradient_is_zero():
    gradient = torch.zeros(1, 3, 4, 4)
    gradient[0, 1, 2, 3] = -2.0
    step = sparse_step(gradient, torch.tensor([0.5]))
    assert step[0, 1, 2, 3] == -1
    assert step.abs().sum() == 1
