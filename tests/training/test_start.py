"""What a training starts from: heads that fit are kept, others are replaced, and nothing else is touched."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cannonade.errors import InputError
from cannonade.models import load_model, untrained
from cannonade.models.head import replace_head
from cannonade.training.checkpoint import weight_bytes
from cannonade.training.start import seeded, starting_point

TINY = "resnet_tiny(width=4, blocks=1)"
BASE = {
    "weights": None,
    "scratch": False,
    "class_names": {0: "tench", 217: "springer", 701: "parachute"},
    "size": None,
    "defense": "identity",
    "seed": 0,
}


def start(model=TINY, **changes):
    return starting_point(model, **(BASE | changes))


@pytest.fixture
def fine_tuned(tmp_path):
    """A file as a training writes it."""
    made = start(scratch=True, size=(32, 32))
    path = tmp_path / "best.safetensors"
    path.write_bytes(weight_bytes(made.module.state_dict(), made.card.metadata()))
    return made, path


def test_from_scratch_is_a_function_of_the_seed():
    one, same, other = (start(scratch=True, seed=seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["linear.weight"], other["linear.weight"])
    assert one["linear.weight"].shape == (3, 32)


def test_a_fine_tuned_file_builds_its_classifier(fine_tuned):
    made, path = fine_tuned
    for name in ("resnet_tiny", TINY):
        classifier = load_model(name, weights=path)
        assert (classifier.num_classes, classifier.input_size) == (3, (32, 32))
        assert classifier.class_numbers == (0, 217, 701)
        assert classifier.class_names == ("tench", "springer", "parachute")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (made.card.mean, made.card.std))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), made.module.eval()((images - mean) / std), rtol=1e-4, atol=1e-5)
    kept = load_model(TINY, weights=path, classes=(701, 0))
    assert (kept.num_classes, kept.class_numbers, kept.class_names) == (2, (701, 0), ("parachute", "tench"))
    torch.testing.assert_close(kept(images), classifier(images)[:, [2, 0]])


def test_a_fine_tuned_file_of_something_else(fine_tuned):
    _, path = fine_tuned
    with pytest.raises(
        InputError, match=r"weights must be of the model asked for, resnet18_small, got .* of resnet_tiny"
    ):
        load_model("resnet18_small", weights=path)
    with pytest.raises(InputError, match=r"num_classes is 10, but .* has 3 classes"):
        load_model("resnet_tiny", weights=path, num_classes=10)
    with pytest.raises(InputError, match="of another shape"):
        load_model("resnet_tiny(width=8, blocks=1)", weights=path)
    with pytest.raises(InputError, match=r"classes must be among the model's, \[0, 217, 701\], got 5"):
        load_model("resnet_tiny", weights=path, classes=(0, 5))
    save_file(load_file(path), path, {"cannonade": "[]"})
    with pytest.raises(InputError, match="must have a readable description of their model"):
        load_model("resnet_tiny", weights=path)


def test_a_plain_state_dict_tells_its_widths(tmp_path):
    for name in ("resnet18_small(width=8)", TINY):
        torch.save(untrained(name, 5).module.state_dict(), tmp_path / "weights.pt")
        classifier = load_model(name.partition("(")[0], weights=tmp_path / "weights.pt")
        assert (classifier.num_classes, classifier.class_numbers) == (5, None)


def test_heads_are_kept_for_the_same_classes_only(fine_tuned):
    made, path = fine_tuned
    again = start(weights=path)
    assert again.continued
    assert torch.equal(again.module.linear.weight, made.module.linear.weight)
    other = start(weights=path, class_names=dict(enumerate("abcd")))
    assert not other.continued
    assert other.module.linear.weight.shape == (4, 32)
    assert torch.equal(other.module.conv1.weight, made.module.conv1.weight)
    assert (other.card.classes, other.card.class_names) == ((0, 1, 2, 3), list("abcd"))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "cifar_resnet20", "efficientnet_lite0", "vgg11"])
def test_new_heads_of_published_architectures(name):
    if name == "vgg11":  # 500 MB, and its head is one of three linear layers
        module = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 1000))
        images = torch.zeros(2, 3, 2, 2)
    else:
        module, images = untrained(name, 10).module, torch.zeros(2, 3, 32, 32)
    before = module.state_dict()
    replaced = replace_head(module, 3).eval()
    assert replaced(images).shape == (2, 3)
    after = replaced.state_dict()
    assert sum(before[key].shape != after[key].shape for key in before) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scratch": True, "weights": "some.pt"}, "starts from weights or from scratch, got both"),
        ({"model": "resnet_tiny"}, "must be given weights=FILE .*finetune --scratch"),
        ({"model": "resnet_tiny(width=0)", "scratch": True}, "width of .* must be at least 1, got 0"),
        ({"model": "resnet_tiny(depth=3)", "scratch": True}, "resnet_tiny has no argument 'depth'"),
        ({"model": "resnet_tinny", "scratch": True}, "did you mean resnet_tiny"),
        ({"model": "cohen_resnet50", "scratch": True}, "stands for published weights"),
        ({"model": "squeezenet1_0", "scratch": True}, "must end in a linear layer, SqueezeNet has none"),
    ],
)
def test_bad_starts(changes, words):
    with pytest.raises(InputError, match=words):
        start(**changes)


def test_seeded_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.random.get_rng_state(), before)
