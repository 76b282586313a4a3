"""Parts of a pass are named for a profiler, and for nobody else."""

import torch
from torch.profiler import ProfilerActivity, profile

from cannonade import spans
from cannonade.spans import span


def test_without_a_profiler_nothing_is_recorded(monkeypatch):
    def recorded(name):
        raise AssertionError(f"{name} is recorded")

    monkeypatch.setattr(spans.profiler, "record_function", recorded)
    with span("model"), span("draws"):
        torch.zeros(2).add(1)


def test_a_profiler_sees_the_parts():
    with profile(activities=[ProfilerActivity.CPU]) as found, span("model"), span("draws"):
        torch.zeros(2).add(1)
    own = {event.name: event for event in found.events() if event.name.startswith("cannonade.")}
    assert set(own) == {"cannonade.model", "cannonade.draws"}
    assert own["cannonade.draws"].cpu_parent.name == "cannonade.model"
