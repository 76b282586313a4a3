"""No defended pass waits for the device: run here on one that exists in name only, where nothing can be read back.

PyTorch's fake tensors know their device, shape and type, and no values: whatever would wait for a GPU to know them is an error.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from cannonade.attacks.eot import EOT
from cannonade.attacks.forwards import predict
from cannonade.defended import DefendedClassifier
from cannonade.defenses.bart import BaRT, BartGao
from cannonade.defenses.executor import _OnRows
from cannonade.defenses.planning import default_tables
from cannonade.draws import Draws, Phase
from cannonade.kernels.backend import triton
from cannonade.transforms.base import Gradient, Transform
from cannonade.transforms.denoising import GaussianBlur

pytestmark = pytest.mark.skipif(
    triton is None or triton.knobs.runtime.interpret, reason="compiled kernels are launched here, in name only"
)
GPU = torch.device("cuda", 7)  # that few machines have, and no other test: caches of constants keep fake tensors for it
SHAPE = torch.Size((6, 3, 224, 224))
MODE = FakeTensorMode(allow_non_fake_inputs=True)
WITH_LAUNCHERS = tuple(
    member
    for member in (*BaRT().members, *BartGao().members)
    if member.operation is not None or type(member).step is not Transform.step
)  # fmt: skip


class Copies(TorchDispatchMode):
    """Fails where anything but pinned memory is copied to the device: such a copy waits, and no graph captures it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::_to_copy", "aten::copy_") and out.device == GPU:
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            assert not source.is_cpu or hasattr(source, "pinned"), "a copy to the device from memory that is not pinned"
        return out


@pytest.fixture
def launched(monkeypatch):
    """A GPU in name only: kernels are not launched but listed, their arguments checked."""
    names = []

    def launch(self, *args, grid, warmup, **settings):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        assert all(tensor.device == GPU for tensor in tensors), f"{self.__name__} got tensors of the host"
        assert all(type(size) is int for size in grid)
        names.append(self.__name__)

    def pin(tensor):
        pinned = tensor.clone()
        pinned.pinned = True
        return pinned

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with MODE, Copies():
        yield names


def draws():
    ids = torch.arange(len(SHAPE) + 2)
    return Draws(seed=3, phase=Phase.ATTACK, images=ids, queries=ids)[: SHAPE[0]]


def sample(bart):
    """On the host, where values are."""
    with _disable_current_modes():
        default_tables(bart.members, SHAPE[2:])
        for member in bart.members:  # tables that are computed once must be real ones
            member.step(member.sample(draws(), SHAPE))
        return bart.sample(draws(), SHAPE)


def forward_backward(bart, params, monkeypatch):
    """Both passes; PyTorch's engine would ask for a real device, so the node's own functions are called."""
    node = SimpleNamespace()
    monkeypatch.setattr("cannonade.defenses.bart.execute", lambda *arguments: _OnRows.forward(node, *arguments))
    with torch.no_grad():
        out = bart.transform(torch.rand(SHAPE, device=GPU), params)
        return out, _OnRows.backward(node, out)[0]


@pytest.mark.parametrize("launches", ["scheduled", "fixed"])
def test_programs_wait_for_nothing(launched, monkeypatch, launches):
    bart = BaRT(k=5, groups=False, random_k=True, transforms=WITH_LAUNCHERS, launches=launches)
    params = sample(bart)
    results = forward_backward(bart, params, monkeypatch)
    assert all(result.shape == SHAPE and result.device == GPU for result in results)
    assert {"_forward_kernel", "_adjoint_kernel"} <= set(launched)


@pytest.mark.parametrize("member", WITH_LAUNCHERS, ids=lambda member: member.name)
def test_a_fixed_sequence_is_the_same_for_any_programs(launched, monkeypatch, member):
    """From tables on the device alone, whatever they hold; every transform by itself."""
    bart = BaRT(k=1, transforms=(member,), launches="fixed")
    params = sample(bart)
    on_device = {key: torch.empty(value.shape, dtype=value.dtype, device=GPU) for key, value in params.items()}
    forward_backward(bart, on_device, monkeypatch)
    assert launched


@dataclass(frozen=True, kw_only=True)
class _Shift(Transform):
    """Adds a number of each image's own."""

    gradient = Gradient.EXACT

    def sample(self, draws, shape):
        return {"shift": draws.site(0).uniform()}

    def apply(self, images, params):
        return images + params["shift"][:, None, None, None]


def test_draws_stay_on_the_host():
    """Rows of an estimate and of predictions are laid out on both devices; parameters alone follow the images."""
    images = torch.empty(SHAPE, device="meta")
    defended = DefendedClassifier(torch.nn.Flatten(), _Shift()).to("meta")
    chunks = list(EOT(samples=2)._chunks(images, draws(), 4))
    assert [rows.draws.images.tolist() for rows in chunks] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert [rows.draws.queries.tolist() for rows in chunks] == [[0, 1, 2, 3], [4, 5, 1, 2], [3, 4, 5, 6]]
    for rows in chunks:
        assert defended.logits(images[rows.images], rows.draws).is_meta
    assert predict(defended, images, draws(), 2, 4).logits.shape == (2, 6, 3 * 224 * 224)
    assert defended(images).is_meta


@dataclass(frozen=True, kw_only=True)
class _Reads(GaussianBlur):
    """A transform that does what the tests above forbid."""

    how: str = "item"

    def step(self, params):
        sigma = params["sigma"]
        if self.how == "item":
            float(sigma.amax())
        if self.how == "list":
            sigma.tolist()
        if self.how == "mask":
            sigma[sigma > 1]
        if self.how == "constant":
            torch.tensor([1.0, 2.0], device=sigma.device)
        return super().step(params)


@pytest.mark.parametrize(
    ("how", "match"),
    [("item", "_local_scalar"), ("list", "_local_scalar"), ("mask", "nonzero"), ("constant", "not pinned")],
)
def test_what_waits_is_found(launched, monkeypatch, how, match):
    bart = BaRT(k=1, transforms=(_Reads(how=how),))
    params = sample(bart)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, AssertionError), match=match):
        forward_backward(bart, params, monkeypatch)
    assert forward_backward(replace(bart, transforms=(_Reads(how="no"),)), params, monkeypatch)
