"""Projected gradient descent, plain or over averaged draws of a stochastic defense."""

import warnings
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from cannonade.attacks.attack import AttackResult, check_ball
from cannonade.attacks.eot import EOT
from cannonade.attacks.finite_differences import FiniteDifferences
from cannonade.attacks.goals import Goal, as_goal
from cannonade.attacks.losses import LOSSES, margin
from cannonade.attacks.momentum import Directions, Momentum, SignAdam
from cannonade.attacks.norms import NORMS
from cannonade.attacks.reach import lost_gradient
from cannonade.attacks.schedules import SCHEDULES
from cannonade.checks import check_images
from cannonade.defended import DefendedClassifier
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels.steps import linf_step
from cannonade.voting import majority_vote


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent (Madry et al., ICLR 2018; paper, equation 1). The last iterate is returned.

    At each step: a step of norm `step_size` along the gradient of the loss, projection onto the ball around the original
    image, then clipping to [0, 1] (in l1 both at once, as in APGD-L1). Draws advance per image, so that restarts, chunks and
    images that are left out never shift another's. Restarts and freezing are judged by votes of the selection phase, which
    share no draws with the gradients, nor with the votes that report the outcome.

    Attributes:
        eps: radius of the ball in units of [0, 1]. At 0 the images are returned as they are.
        steps: k, the number of steps.
        step_size: α, in the same units.
        norm: "linf", "l2" or "l1".
        random_start: start uniformly in the ball rather than at the image; second and later starts always do.
        loss: "cross_entropy", "margin" (the linear loss of Sitawarin et al.), "dlr" or "dlr_targeted".
        schedule: of the step size: "constant", "cosine" (to nearly 0) or "halving" (after each quarter).
        momentum: μ of heavy-ball momentum, 0 for none, or several numbers for aggregated momentum, such as (0, 0.9, 0.99).
        direction: "steepest" for the norm's direction of steepest ascent (the sign in linf), "gradient" for the gradient as it
            is, as in the attacks of Athalye et al. (ICML 2018) on input transformations; "adam" for Adam's step on its sign, as
            in theirs on activation pruning; α is then a learning rate.
        order: "project_clip" as above; "clip_project" clips first, as ART, advertorch and cleverhans do. They differ in l2, l1.
        restarts: how often to start; the point with the largest lead in a selection vote is returned.
        freeze_every: after so many steps, vote, and leave alone from then on the images that lead by 2·√votes (two standard
            deviations of a coin's lead) or by all votes, so that passes are filled with unfinished ones; 0 for never.
        selection_votes: predictions of a selection vote.
        stop: leave an image alone from the step on at which all draws of its gradient satisfy the goal, as the attacks of
            Athalye et al. do. Only with `EOT`, and of little meaning for few samples.
        gradient: how the gradient of the stochastic classifier is estimated.

    Example:
        >>> from cannonade import DefendedClassifier, build_defense
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> defended = DefendedClassifier(net, build_defense("smoothing(sigma=0.1)"))
        >>> images, labels = torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 1])
        >>> found = PGD(eps=8 / 255, steps=10, step_size=2 / 255, gradient=EOT(samples=5))(defended, images, labels).images
        >>> torch.allclose((found - images).abs().amax((1, 2, 3)), torch.tensor(8 / 255))
        True
    """

    eps: float = 8 / 255
    steps: int = 50
    step_size: float = 1 / 255
    norm: str = "linf"
    random_start: bool = False
    loss: str = "cross_entropy"
    schedule: str = "constant"
    momentum: float | tuple[float, ...] = 0.0
    direction: Literal["steepest", "gradient", "adam"] = "steepest"
    order: Literal["project_clip", "clip_project"] = "project_clip"
    restarts: int = 1
    freeze_every: int = 0
    selection_votes: int = 20
    stop: bool = False
    gradient: EOT | FiniteDifferences = field(default_factory=EOT)

    def __post_init__(self) -> None:
        check_ball(self.norm, self.eps)
        for name, value, valid in (
            ("loss", self.loss, LOSSES),
            ("schedule", self.schedule, SCHEDULES),
            ("direction", self.direction, ("steepest", "gradient", "adam")),
            ("order", self.order, ("project_clip", "clip_project")),
        ):
            if value not in valid:
                raise InputError(f"{name} must be one of {', '.join(valid)}, got {value!r}")
        for name, number, least in (
            ("steps", self.steps, 1),
            ("restarts", self.restarts, 1),
            ("freeze_every", self.freeze_every, 0),
            ("selection_votes", self.selection_votes, 1),
        ):
            if number < least:
                raise InputError(f"{name} must be at least {least}, got {number}")
        if not self.step_size > 0:
            raise InputError(f"step_size must be positive, got {self.step_size}")
        dampings = self.momentum if isinstance(self.momentum, tuple) else (self.momentum,)
        if not dampings or not all(0 <= damping < 1 for damping in dampings):
            raise InputError(f"momentum must be in [0, 1), or several such numbers, got {self.momentum}")
        if self.direction == "adam" and self.momentum != 0:
            raise InputError(f"momentum must be 0 with direction='adam', which has its own, got {self.momentum}")
        if self.stop and not isinstance(self.gradient, EOT):
            raise InputError("stop must be False without EOT: use freeze_every")

    def __call__(
        self, defended: DefendedClassifier, images: Tensor, goal: Goal | Tensor, *, ids: Tensor | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            defended: the classifier under attack.
            images: [N, C, H, W] in [0, 1].
            goal: `Untargeted(labels)`, `Targeted(targets)`, `Mixed(labels, targets)`, or [N] labels for the untargeted goal.
            ids: [N] int64, each image's index in its data set, which decides its draws; 0 … N−1 by default.

        Raises:
            InputError: images, goal or ids that do not fit together, or logits that do not hang on the images.

        Warns:
            UserWarning: every gradient was zero; says where it was lost.
        """
        goal = as_goal(goal)
        run = _Run(self, defended, images, goal, check_images(images, len(goal), ids))
        if len(images) == 0 or self.eps == 0:
            return _result(images.clone(), run.cost, 0)
        run.gradient = self.gradient.resolved(defended, images)
        for restart in range(self.restarts):
            if len(rows := run.open):
                run.keep(rows, self._climb(run, restart))
        if run.all_zero():
            warnings.warn(lost_gradient(defended, images, run.draws(Phase.SELECTION, 0)), stacklevel=2)
        return _result(run.best, run.cost, int(run.gradient.chunk))

    def _climb(self, run: "_Run", restart: int) -> Tensor:
        """From one start to its last iterate, [N, C, H, W]; only the images still open move."""
        directions = self._directions(run.images.shape)
        points = self._start(run, restart)
        for number in range(self.steps):
            if number and self.freeze_every and number % self.freeze_every == 0:
                run.freeze(points)
            rows = run.open
            if len(rows) == 0:
                break
            gradient, moving = run.estimate(points[rows], restart * self.steps + number)
            size = self.step_size * SCHEDULES[self.schedule](number / self.steps)
            inside = self._moved(points[rows], run.images[rows], directions.direction(gradient, rows), size)
            points[rows] = torch.where(moving[:, None, None, None], inside, points[rows])
        return points

    def _directions(self, shape: torch.Size) -> Directions:
        if self.direction == "adam":
            return SignAdam(shape)
        step = NORMS[self.norm].step if self.direction == "steepest" else torch.clone
        return Momentum(self.momentum, shape, step, raw=self.direction == "gradient")

    def _start(self, run: "_Run", restart: int) -> Tensor:
        if not self.random_start and restart == 0:
            return run.images.clone()
        draws = run.draws(Phase.START, restart).to(run.images.device)
        start = NORMS[self.norm].start(run.images.shape, self.eps, draws)
        if self.norm == "l1":
            return NORMS[self.norm].confine(run.images, start.to(run.images.dtype), self.eps)
        return (run.images + start.to(run.images.dtype)).clamp(0, 1)

    def _moved(self, points: Tensor, images: Tensor, direction: Tensor, size: float) -> Tensor:
        if self.norm == "linf" and self.order == "project_clip":
            return linf_step(points, images, direction, size, self.eps)
        norm, moved = NORMS[self.norm], points + size * direction
        if self.order == "project_clip":
            return norm.confine(images, moved - images, self.eps)
        return (images + norm.project(moved.clamp(0, 1) - images, self.eps)).clamp(0, 1)


class _Run:
    """What one call of an attack works on: the images, what they cost, the best points, and who is still attacked.

    Attributes:
        images: [N, C, H, W], the originals.
        open: [M] int64, the images that neither a selection vote nor the draws of a step have shown broken.
        best: [N, C, H, W], the points to return.
        cost: [4, N] int64: gradients, forwards, steps without finite gradient, steps with a zero one.
        gradient: the estimator, with the chunk it has come down to.
    """

    def __init__(self, attack: PGD, defended: DefendedClassifier, images: Tensor, goal: Goal, ids: Tensor) -> None:
        self.images, self.gradient = images, attack.gradient
        self.open = torch.arange(len(images), device=images.device)
        self._open_on_host = torch.arange(len(images))  # the same, which draws are chosen by
        self.best = images
        self.cost = ids.new_zeros(4, len(ids))
        self._attack, self._defended, self._goal, self._ids = attack, defended, goal, ids.cpu()
        self._leads = images.new_full((len(images),), -torch.inf)

    def draws(self, phase: Phase, query: int) -> Draws:
        """One stream per image, on the host."""
        return Draws(seed=self._defended.seed, phase=phase, images=self._ids, queries=torch.full_like(self._ids, query))

    def estimate(self, points: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The gradients of the open images, 0 where they are not finite, and [M] bool, which images are to move along them.

        Args:
            points: [M, C, H, W].
            number: of the estimate, over all restarts.
        """
        rows = self.open
        draws = self.draws(Phase.ATTACK, number * self.gradient.queries)[self._open_on_host]
        loss = LOSSES[self._attack.loss]
        estimate = self.gradient.estimate(self._defended, points, self._goal[rows], loss, draws)
        self.gradient = replace(self.gradient, chunk=estimate.chunk)
        finite = estimate.gradient.flatten(1).isfinite().all(1)
        zero = ~estimate.gradient.flatten(1).any(1)
        spent = torch.tensor((estimate.gradients, estimate.forwards), device=rows.device)[:, None].expand(2, len(rows))
        self.cost[:, rows] += torch.cat((spent, torch.stack((~finite, zero))))
        gradient = torch.where(finite[:, None, None, None], estimate.gradient, 0)
        if not self._attack.stop or estimate.reached is None:
            return gradient, finite
        self._close(estimate.reached)
        return gradient, finite & ~estimate.reached

    def freeze(self, points: Tensor) -> None:
        """Close the images that a selection vote on their points shows broken."""
        leads = self._lead(points[self.open], self.open)
        votes = self._attack.selection_votes
        self._close(leads >= min(2 * votes**0.5, votes))

    def _close(self, done: Tensor) -> None:
        """Leave open images alone from now on: [M] bool."""
        self.open = self.open[~done]
        self._open_on_host = self.open.cpu()

    def keep(self, rows: Tensor, points: Tensor) -> None:
        """Keep the better point of each image, the new one or the best so far; without restarts there is nothing to choose."""
        if self._attack.restarts == 1:
            self.best = points
            return
        leads = self._lead(points[rows], rows)
        better = (leads > self._leads[rows])[:, None, None, None]
        self.best = self.best.index_copy(0, rows, torch.where(better, points[rows], self.best[rows]))
        self._leads = self._leads.index_copy(0, rows, leads.maximum(self._leads[rows]))

    def _lead(self, points: Tensor, rows: Tensor) -> Tensor:
        """[M], by how many of the selection votes each image is past its goal; half a vote more where the vote says so."""
        chunk = int(self.gradient.chunk)
        votes = majority_vote(
            self._defended,
            points,
            self._attack.selection_votes,
            phase=Phase.SELECTION,
            ids=self._ids[rows.cpu()],
            chunk=chunk,
        )
        self.cost[1, rows] += votes.forwards
        goal = self._goal[rows]
        return goal.objective(votes.counts.to(points.dtype), margin) + goal.reached(votes.labels) / 2

    def all_zero(self) -> bool:
        """Whether there were gradients, and all of them were zero."""
        gradients, _, _, zero = self.cost
        return bool((zero > 0).all() and (zero * self.gradient.samples == gradients).all())


def _result(images: Tensor, cost: Tensor, chunk: int) -> AttackResult:
    gradients, forwards, nonfinite, zero = cost
    return AttackResult(images, gradients, forwards, nonfinite, zero, chunk)
