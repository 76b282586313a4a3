"""No defended pass waits for the device: run here on a GPU in name only, where nothing can be read back."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from cannonade.attacks.eot import EOT
from cannonade.attacks.forwards import predict
from cannonade.bench.fake_gpu import FAKE_GPU, Waiting, fake_gpu, on_host
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
SHAPE = torch.Size((6, 3, 224, 224))
WITH_LAUNCHERS = tuple(
    member
    for member in (*BaRT().members, *BartGao().members)
    if member.operation is not None or type(member).step is not Transform.step
)  # fmt: skip


@pytest.fixture
def launched():
    with fake_gpu() as found:
        yield found


def draws():
    ids = torch.arange(len(SHAPE) + 2)
    return Draws(seed=3, phase=Phase.ATTACK, images=ids, queries=ids)[: SHAPE[0]]


def sample(bart):
    """On the host, where values are."""

    def real():
        default_tables(bart.members, SHAPE[2:])
        for member in bart.members:  # tables that are computed once must be real ones
            member.step(member.sample(draws(), SHAPE))
        return bart.sample(draws(), SHAPE)

    return on_host(real)


def forward_backward(bart, params, monkeypatch):
    """Both passes; PyTorch's engine would ask for a real device, so the node's own functions are called."""
    node = SimpleNamespace()
    monkeypatch.setattr("cannonade.defenses.bart.execute", lambda *arguments: _OnRows.forward(node, *arguments))
    with torch.no_grad():
        out = bart.transform(torch.rand(SHAPE, device=FAKE_GPU), params)
        return out, _OnRows.backward(node, out)[0]


@pytest.mark.parametrize("launches", ["scheduled", "fixed"])
def test_programs_wait_for_nothing(launched, monkeypatch, launches):
    bart = BaRT(k=5, groups=False, random_k=True, transforms=WITH_LAUNCHERS, launches=launches)
    params = sample(bart)
    results = forward_backward(bart, params, monkeypatch)
    assert all(result.shape == SHAPE and result.device == FAKE_GPU for result in results)
    assert {"_forward_kernel", "_adjoint_kernel"} <= {launch.kernel.__name__ for launch in launched}


@pytest.mark.parametrize("member", WITH_LAUNCHERS, ids=lambda member: member.name)
def test_a_fixed_sequence_is_the_same_for_any_programs(launched, monkeypatch, member):
    """From tables on the device alone, whatever they hold; every transform by itself."""
    bart = BaRT(k=1, transforms=(member,), launches="fixed")
    params = sample(bart)
    on_device = {key: torch.empty(value.shape, dtype=value.dtype, device=FAKE_GPU) for key, value in params.items()}
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
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, Waiting), match=match):
        forward_backward(bart, params, monkeypatch)
    assert forward_backward(replace(bart, transforms=(_Reads(how="no"),)), params, monkeypatch)
