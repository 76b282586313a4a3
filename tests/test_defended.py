"""A defended classifier is an ordinary module to whoever calls it, and draws afresh however it is wrapped or copied."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from cannonade.chunking import rows_that_fit
from cannonade.classifier import Classifier
from cannonade.defended import DefendedClassifier
from cannonade.defenses import build_defense
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.noise import Smoothing

IMAGES = torch.linspace(0.1, 0.9, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


def make(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 5))
    return DefendedClassifier(Classifier(net, input_size=(8, 8)), Smoothing(sigma=0.2), seed=3, **settings)


def own(seed=3, *, queries, rank=0):
    """The streams of `forward`, by number."""
    queries = torch.tensor(queries)
    return Draws(seed=seed, phase=Phase.FORWARD, images=torch.full_like(queries, rank), queries=queries)


def test_randomness_says_which_draws():
    fresh, fixed, common = (make(randomness=name) for name in ("fresh", "fixed", "common"))
    for call in range(2):
        first = 4 * call
        assert torch.equal(fresh(IMAGES), fresh.logits(IMAGES, own(queries=range(first, first + 4))))
        assert torch.equal(fixed(IMAGES), fixed.logits(IMAGES, own(queries=range(4))))
        assert torch.equal(common(IMAGES), common.logits(IMAGES, own(queries=[call] * 4)))


@pytest.mark.parametrize("average", ["logits", "probs"])
@pytest.mark.parametrize("randomness", ["fresh", "fixed", "common"])
def test_inner_mean_is_of_so_many_draws_in_one_pass(randomness, average):
    defended = make(randomness=randomness, samples=3, average=average)
    defended(IMAGES)
    before = defended.classifier.forwards
    found = defended(IMAGES)
    assert defended.classifier.forwards == before + 12
    start = {"fresh": 12, "fixed": 0, "common": 3}[randomness]
    step = 0 if randomness == "common" else 3
    draws = [own(queries=[start + step * row + sample for row in range(4)]) for sample in range(3)]
    each = torch.stack([defended.logits(IMAGES, own) for own in draws])
    expected = each.mean(0) if average == "logits" else each.softmax(2).mean(0).log()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_an_inner_mean_is_that_of_the_mean():
    defended = make(randomness="fixed", samples=5)
    leaf = IMAGES.clone().requires_grad_()
    defended(leaf)[:, 1].sum().backward()
    single = IMAGES.clone().requires_grad_()
    for sample in range(5):
        (defended.logits(single, own(queries=[5 * row + sample for row in range(4)]))[:, 1].sum() / 5).backward()
    torch.testing.assert_close(leaf.grad, single.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 100, "auto"])
@pytest.mark.parametrize("randomness", ["fresh", "fixed", "common"])
def test_chunks_change_nothing_but_rounding(randomness, chunk, checkpoint, monkeypatch):
    """Neither a result nor a gradient, that of the weights included, at a first and a second call."""
    monkeypatch.setattr("cannonade.chunking._free_bytes", lambda _: 12_000)  # a few rows
    whole = make(randomness=randomness, samples=3, average="probs").requires_grad_(True)
    parts = make(randomness=randomness, samples=3, average="probs", chunk=chunk, checkpoint=checkpoint)
    parts.requires_grad_(True)
    for _ in range(2):
        found = []
        for defended in (whole, parts):
            leaf = IMAGES.clone().requires_grad_()
            logits = defended(leaf)
            found.append((logits, *torch.autograd.grad(logits[:, 1].sum(), [leaf, *defended.parameters()])))
        for expected, own in zip(*found, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bart(k=3)", "activation_pruning"])
def test_a_defense_computed_again_draws_the_same(name):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 5)
    )
    photos, gradients = torch.rand(3, 3, 40, 40), []
    for settings in ({}, {"chunk": 4, "checkpoint": True}):
        defended = DefendedClassifier(net, build_defense(name), seed=2, samples=4, **settings)
        leaf = photos.clone().requires_grad_()
        defended(leaf)[:, 1].sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def kept_bytes(defended):
    """What a forward keeps for its backward, beside the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in defended.parameters()}
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        defended(IMAGES.clone().requires_grad_())
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


def test_a_checkpoint_keeps_inputs_alone():
    whole, again = make(samples=12), make(samples=12, chunk=8, checkpoint=True)
    assert kept_bytes(again) < 0.5 * kept_bytes(whole)


@pytest.mark.parametrize(("free", "forwards"), [(1 << 30, [20]), (100_000, [7, 7, 6])])
def test_auto_computes_again_only_what_does_not_fit(free, forwards, monkeypatch):
    monkeypatch.setattr("cannonade.chunking._free_bytes", lambda _: free)
    monkeypatch.setattr("cannonade.defended.bytes_per_row", lambda *_: 8_000)
    defended = make(samples=5, chunk="auto")
    sizes = []
    defended.classifier.network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    leaf = IMAGES.clone().requires_grad_()
    logits = defended(leaf)
    assert sizes == forwards
    logits.sum().backward()
    assert sorted(sizes) == sorted(forwards if len(forwards) == 1 else 2 * forwards)
    assert defended.classifier.gradients == 20


def test_rows_that_wait_for_backward_keep_less_than_those_that_run(monkeypatch):
    """20 rows of 8 kB would not fit 120 kB, but of 4 kB, and 5 of them once more, they do."""
    monkeypatch.setattr("cannonade.chunking._free_bytes", lambda _: 200_000)
    monkeypatch.setattr("cannonade.chunking._CPU_BYTES", 40_000)
    monkeypatch.setattr("cannonade.defended.bytes_per_row", lambda *_: 8_000)
    defended = make(samples=5, chunk="auto")
    defended(IMAGES.clone().requires_grad_()).sum().backward()
    assert (defended.classifier.forwards, defended.classifier.gradients) == (20, 20)


def test_a_limit_of_the_group_counts_what_the_process_keeps_as_free(tmp_path, monkeypatch):
    files = tuple(tmp_path / name for name in ("memory.max", "memory.current"))
    for file, text in zip(files, ("10000\n", "4000\n"), strict=True):
        file.write_text(text)
    monkeypatch.setattr("cannonade.chunking._LIMIT_FILES", files)
    monkeypatch.setattr("cannonade.chunking._kept_by_malloc", lambda: 1000)
    assert rows_that_fit(100, torch.device("cpu")) == 42  # 0.6 of 7000 bytes
    files[0].write_text("max\n")
    assert rows_that_fit(100, torch.device("cpu")) > 42


def test_where_memory_runs_out_chunks_are_halved_and_computed_again(monkeypatch):
    defended, whole = make(samples=5, chunk=16, randomness="fixed"), make(samples=5, randomness="fixed")
    sizes, logits = [], defended.logits

    def scarce(images, draws):
        sizes.append(len(images))
        if len(images) > 10:
            raise torch.OutOfMemoryError
        return logits(images, draws)

    monkeypatch.setattr(defended, "logits", scarce)
    leaf, same = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    defended(leaf).sum().backward()
    whole(same).sum().backward()
    assert sizes == [16, 8, 8, 4, 4, 8, 8]
    torch.testing.assert_close(leaf.grad, same.grad, rtol=1e-5, atol=1e-6)


def test_chunks_without_gradients_and_without_rows():
    defended = make(samples=3, chunk="auto", randomness="fixed")
    with torch.inference_mode():
        first = defended(IMAGES)
    torch.testing.assert_close(first.clone(), make(samples=3, randomness="fixed")(IMAGES))
    assert all(size > 0 for size in defended._row_bytes.values())
    assert defended(IMAGES[:0]).shape == (0, 5)
    assert "chunk='auto', checkpoint=False" in repr(defended)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_go_on_where_the_original_is(clone):
    defended = make(samples=2, chunk="auto", checkpoint=True)
    defended(IMAGES)
    twin = clone(defended)
    second = defended(IMAGES)
    assert torch.equal(twin(IMAGES), second)
    assert not torch.equal(twin(IMAGES), second)


def test_state_dict_is_of_weights_and_loads_elsewhere():
    defended, other = make(), make()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(defended.state_dict())
    assert torch.equal(other(IMAGES), defended(IMAGES))
    assert all(name.startswith("classifier.") for name in defended.state_dict())


def test_moves_with_its_weights(device):
    moved = make().to(device)
    assert moved(IMAGES.to(device)).device.type == device.type
    assert make().double()(IMAGES.double()).dtype == torch.float64


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_classifier_inside_draws_afresh():
    defended = make()
    defended.classifier.network.compile(backend="eager", fullgraph=True)
    plain = make()
    for _ in range(2):
        torch.testing.assert_close(defended(IMAGES), plain(IMAGES))


@contextmanager
def process_group(backend, store, **settings):
    torch.distributed.init_process_group(backend, store=store, **settings)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_ranks_draw_differently():
    with process_group("fake", FakeStore(), rank=1, world_size=2):
        defended = make()
        assert torch.equal(defended(IMAGES), defended.logits(IMAGES, own(queries=range(4), rank=1)))


def test_distributed_data_parallel_draws_afresh():
    with process_group("gloo", torch.distributed.HashStore(), rank=0, world_size=1):
        wrapped = nn.parallel.DistributedDataParallel(make().requires_grad_(True))  # it wraps no frozen weights
        first, second = wrapped(IMAGES), wrapped(IMAGES)
        assert not torch.equal(first, second)
        second.sum().backward()
        assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_data_parallel_is_refused():
    replica = make()._replicate_for_data_parallel()
    with pytest.raises(InputError, match=r"DataParallel is not supported.*one process for each device"):
        replica(IMAGES)


def test_layout_and_scale_are_named():
    with pytest.raises(InputError, match="move the channels first"):
        make()(IMAGES.permute(0, 2, 3, 1))
    with pytest.raises(InputError, match="divide 8-bit images by 255"):
        make()(255 * IMAGES)
    make()(IMAGES + 0.8 * torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(0)))  # smoothing's noise


def test_probabilities_are_noticed():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.Softmax(1))
    with pytest.warns(UserWarning, match=r"must return logits.*leave out the module's own"):
        Classifier(net, input_size=(8, 8))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1, 'auto' or None"),
        ({"checkpoint": True}, "checkpoint needs a chunk"),
        ({"average": "loss"}, "'logits' or 'probs'"),
        ({"randomness": "new"}, "'fresh', 'fixed' or 'common'"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        make(**settings)
