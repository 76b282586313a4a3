"""A network in training: one step at a time, and everything that the next step depends on."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from cannonade.classifier import Network
from cannonade.data.loader import Batch
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.models.head import find_head
from cannonade.stopwatch import Stopwatch
from cannonade.training.average import WeightAverage
from cannonade.training.checkpoint import Checkpoint
from cannonade.training.layout import lay_out
from cannonade.training.schedule import learning_rate
from cannonade.training.start import seeded
from cannonade.training.task import Task

_DROPOUT = 1  # site of the seeds of layers that draw from the global generator; site 0 of this phase is the order's


class Trainer:
    """The state of a training.

    Args:
        task: what to train.

    Attributes:
        module: the network without its normalisation.
        epoch, step: the next step: its epoch, and its number in it.
        watch: where the seconds go.
    """

    def __init__(self, task: Task) -> None:
        self.task, recipe = task, task.recipe
        card = task.start.card
        self.module = task.start.module.to(task.device)
        self._network = Network(self.module, card.mean, card.std)
        self._network.channels_last = lay_out(self.module, recipe.channels_last)
        self._network.autocast = recipe.autocast
        self._head = find_head(self.module)[1] if recipe.freeze else None
        if self._head is not None:
            self.module.requires_grad_(False)
            self._head.requires_grad_(True)
        if recipe.compile:
            self._network.compile()
        self._model: nn.Module = self._network
        if task.ranks.world > 1:
            self._model = DistributedDataParallel(self._network)
        self._trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(self._trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._scaler = torch.amp.GradScaler(task.device.type, enabled=recipe.precision == "float16")
        self._average = WeightAverage(self.module, recipe.average) if recipe.average else None
        self.watch = Stopwatch(task.device)
        self.epoch = self.step = 0
        self._new: list[Tensor] = []
        self.sums = {"loss": 0.0, "right": 0.0, "images": 0.0}

    @property
    def done(self) -> int:
        """Steps taken."""
        return self.epoch * self.task.steps + self.step

    @property
    def evaluated(self) -> Mapping[str, Tensor]:
        """The weights that are judged and kept: the mean over them where there is one."""
        return self.module.state_dict() if self._average is None else self._average.state

    def take(self, passes: Sequence[Batch]) -> None:
        """One step of the optimiser on the mean loss over all images of its passes, behind the defense."""
        task = self.task
        self._network.train(self._head is None)
        if self._head is not None:
            self._head.train()
        count = sum(len(batch.ids) for batch in passes)
        outcome = torch.zeros(2, device=task.device)
        for number, batch in enumerate(passes):
            with self.watch.part("defense"), torch.no_grad():
                draws = task.feed(self.epoch).draws(batch.ids).part(1)
                images = task.defense(batch.images, draws)
            place = self.done * task.recipe.accumulate + number
            with (
                self.watch.part("model"),
                self._alone(number + 1 < len(passes)),
                seeded(self._seed(place), task.device),
            ):
                logits = task.defense.inside(self._model, images, draws)
                loss = cross_entropy(logits, batch.labels, reduction="sum")
                self._scaler.scale(loss / count).backward()
            outcome += torch.stack((loss.detach(), (logits.detach().argmax(1) == batch.labels).sum()))
        with self.watch.part("model"):
            rate = learning_rate(
                self.done, task.recipe.epochs * task.steps, task.recipe.learning_rate, task.recipe.warmup
            )
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            self._scaler.step(self._optimiser)
            self._scaler.update()
            self._optimiser.zero_grad()
            if self._average is not None:
                self._average.update(self.module)
        self._new.append(torch.cat((outcome, torch.full_like(outcome[:1], count))))
        self.step += 1

    def count(self) -> dict[str, float]:
        """Add the steps since the last call to the epoch's sums; returns what they add.

        Raises:
            InputError: the loss of a step was not finite.
        """
        added = dict.fromkeys(self.sums, 0.0)
        if self._new:
            rows = self.task.ranks.total(torch.stack(self._new)).tolist()
            first = self.done - len(rows)
            self._new.clear()
            for number, row in enumerate(rows):
                if not math.isfinite(row[0]):
                    raise _stopped(f"the loss of step {first + number + 1} is {row[0]}")
                for name, value in zip(added, row, strict=True):
                    added[name] += value
                    self.sums[name] += value
        return added

    def next_epoch(self) -> None:
        """Go on to the first step of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.sums = dict.fromkeys(self.sums, 0.0)

    def check_finite(self) -> None:
        """Raise InputError where a weight is not finite."""
        if not all(bool(value.isfinite().all()) for value in self.module.state_dict().values()):
            raise _stopped(f"a weight after step {self.done} is not finite")

    def checkpoint(self) -> Checkpoint:
        """What the next step depends on."""
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state,
        }
        return Checkpoint(self.module.state_dict(), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        state = checkpoint.state
        self.module.load_state_dict(dict(checkpoint.weights))
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load(state["average"])
        self.epoch, self.step, self.sums = state["epoch"], state["step"], dict(state["sums"])

    def _alone(self, more: bool) -> AbstractContextManager[Any]:
        """Keep gradients to this process while more passes of the step are to come."""
        if more and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def _seed(self, place: int) -> int:
        """Of what a pass draws from the global generator: dropout."""
        numbers = torch.tensor([self.task.ranks.rank]), torch.tensor([place])
        draws = Draws(seed=self.task.recipe.seed, phase=Phase.ORDER, images=numbers[0], queries=numbers[1])
        return int(draws.site(_DROPOUT).words(1))


def _stopped(reason: str) -> InputError:
    return InputError(
        f"{reason}: stopped, the last good checkpoint is kept; use a lower --learning-rate, or --precision float32"
    )
