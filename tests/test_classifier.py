"""A classifier: what is prepared changes nothing but speed, what is fixed stays fixed, and everything is counted."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, shufflenet_v2_x0_5

from cannonade.classifier import Classifier
from cannonade.errors import InputError
from cannonade.models import load_pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Small(nn.Module):
    """One convolution, one batch norm, and a choice of what lies between and behind them."""

    def __init__(self, between=None, head=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.between = between or nn.Identity()
        self.head = head or nn.Linear(6, 4)

    def features(self, images):
        return self.norm(self.between(self.conv(images)))

    def forward(self, images):
        return self.head(self.features(images).relu().mean((2, 3)))


class Plain(Small):
    """Batch norm right after the convolution."""

    def features(self, images):
        return self.norm(self.conv(images))


class Between(Plain):
    """A convolution whose output is used beside its batch norm."""

    def features(self, images):
        hidden = self.conv(images)
        return self.norm(hidden) + hidden


class Twice(Plain):
    """One batch norm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 6, 3, padding=1)

    def features(self, images):
        return self.norm(self.conv(images)) + self.norm(self.other(images))


class Untraceable(Plain):
    """Branches on a value, which symbolic tracing cannot follow."""

    def features(self, images):
        return super().features(images) * (2 if images.sum() > 0 else 3)


class Reading(Plain):
    """Uses its convolution's weights a second time."""

    def features(self, images):
        return super().features(images) * self.conv.weight.sum()


class Unlisted(Plain):
    """Calls its batch norm through a list that nn.Module does not know of, so folding cannot take it away."""

    def __init__(self):
        super().__init__()
        self.hidden = [self.norm]

    def features(self, images):
        return self.hidden[0](self.conv(images))


class Viewing(Plain):
    """Flattens with `view`, which only the contiguous layout allows."""

    def __init__(self):
        super().__init__(head=nn.Linear(6 * 32 * 32, 4))

    def forward(self, images):
        return self.head(self.features(images).view(images.shape[0], -1))


def make(kind, *arguments, **settings):
    """A module in eval mode with the same random weights each time, and batch norms far from the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(kind(*arguments, **settings))


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.3, 3.0),
                (part.weight.data, 0.5, 1.5),
                (part.bias.data, -0.3, 0.3),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()


def noise(count=4, side=32, dtype=torch.float32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(7), dtype=dtype)


def plain_logits(module, images, mean=MEAN, std=STD):
    shape = (1, 3, 1, 1)
    with torch.no_grad():
        return module((images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))


def input_gradient(classifier, images):
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(classifier(leaf).logsumexp(1).sum(), leaf)[0]


def assert_same_logits(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def efficientnet():
    return load_pretrained("efficientnet_lite0")


@pytest.mark.parametrize(("fold", "channels_last"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "shufflenet_v2_x0_5"])
def test_prepared_equals_as_loaded(name, fold, channels_last, efficientnet):
    builders = {"resnet18": resnet18, "shufflenet_v2_x0_5": shufflenet_v2_x0_5}
    module = make(builders[name], num_classes=7) if name in builders else efficientnet.module.eval()
    norms = {"efficientnet_lite0": 49, "resnet18": 20, "shufflenet_v2_x0_5": 56}[name]
    images = noise(2, 64)
    classifier = Classifier(module, mean=MEAN, std=STD, fold_batch_norm=fold, channels_last=channels_last)
    assert classifier.folded == (norms if fold else 0)
    assert classifier.channels_last == channels_last
    assert_same_logits(classifier(images), plain_logits(module, images))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_prepared_has_the_same_gradient(name, efficientnet):
    """In float64: in float32 the rounding moves a few activations across the kinks of ReLU and ReLU6."""
    module = make(resnet18, num_classes=7) if name == "resnet18" else copy.deepcopy(efficientnet.module)
    images = noise(1, 64, torch.float64)
    settings = {"mean": MEAN, "std": STD, "input_size": (64, 64)}
    classifier = Classifier(module.double(), **settings)
    assert classifier.folded > 0
    assert classifier.channels_last
    expected = input_gradient(Classifier(module, **settings, fold_batch_norm=False, channels_last=False), images)
    assert (input_gradient(classifier, images) - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize(
    ("module", "pairs"),
    [
        (make(Plain), 1),
        (make(Small, nn.ReLU()), 0),
        (make(Between), 0),
        (make(Twice), 0),
        (make(Untraceable), 0),
        (make(Reading), 0),
        (make(nn.Sequential, nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_norm_that_follows_a_convolution_is_folded(module, pairs):
    classifier = Classifier(module)
    assert classifier.folded == pairs
    assert_same_logits(classifier(noise()), plain_logits(module, noise(), (0, 0, 0), (1, 1, 1)))


def test_a_convolution_with_hooks_is_left():
    module = make(Plain)
    module.conv.register_forward_hook(lambda *_: None)
    assert Classifier(module).folded == 0


def test_a_module_of_two_names_is_folded_once():
    module = make(Plain)
    module.also = nn.ModuleList([module.conv, module.norm])
    classifier = Classifier(module)
    assert classifier.folded == 1
    assert_same_logits(classifier(noise()), plain_logits(module, noise(), (0, 0, 0), (1, 1, 1)))


def test_what_does_not_agree_is_dropped_with_a_warning():
    module = make(Unlisted)
    with pytest.warns(UserWarning, match="runs unfolded"):
        classifier = Classifier(module)
    assert classifier.folded == 0
    assert_same_logits(classifier(noise()), plain_logits(module, noise(), (0, 0, 0), (1, 1, 1)))
    module = make(Viewing)
    with pytest.warns(UserWarning, match="channels_last made it fail"):
        classifier = Classifier(module)
    assert (classifier.folded, classifier.channels_last) == (1, False)
    assert_same_logits(classifier(noise()), plain_logits(module, noise(), (0, 0, 0), (1, 1, 1)))


def test_the_callers_module_is_not_touched():
    module = Plain().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    images = noise().requires_grad_()
    Classifier(module)(images).sum().backward()
    assert type(module.norm) is nn.BatchNorm2d
    assert module.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_frozen_and_in_eval_mode():
    classifier = Classifier(make(Plain), fold_batch_norm=False)
    assert classifier.train() is classifier
    assert not any(part.training for part in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(parameter.requires_grad for parameter in Classifier(Plain()).parameters())
    assert input_gradient(classifier, noise()).abs().sum() > 0
    assert not classifier(noise()).requires_grad


def test_images_are_not_clamped():
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    logits = Classifier(module, mean=(0.1, 0.2, 0.3), std=(1, 2, 4))(torch.full((1, 3, 5, 5), -1.5))
    torch.testing.assert_close(logits, torch.tensor([[-1.6, -0.85, -0.45]]))


def test_counts_forwards_and_gradients():
    classifier = Classifier(make(Plain))
    assert (classifier.forwards, classifier.gradients) == (0, 0)
    with torch.no_grad():
        classifier(noise(3))
    assert (classifier.forwards, classifier.gradients) == (3, 0)
    images = noise(5).requires_grad_()
    logits = classifier(images)
    assert (classifier.forwards, classifier.gradients) == (8, 0)
    for times in (1, 2):
        torch.autograd.grad(logits.sum(), images, retain_graph=True)
        assert (classifier.forwards, classifier.gradients) == (8, 5 * times)
    assert classifier(noise(0)).shape == (0, 4)
    assert classifier.forwards == 8


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda classifier: pickle.loads(pickle.dumps(classifier))])
def test_copies_count_for_themselves(clone):
    classifier = Classifier(make(Plain), class_names="abcd", name="plain")
    expected = input_gradient(classifier, noise())
    twin = clone(classifier)
    assert repr(twin) == repr(classifier)
    assert torch.equal(input_gradient(twin, noise()), expected)
    assert (twin.forwards, twin.gradients) == (8, 8)
    assert (classifier.forwards, classifier.gradients) == (4, 4)
    assert not twin.train().training


# Images behind a defense are no leaf, and Dynamo looks at the .grad of every input.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_counts_and_survives_copying(monkeypatch):
    real = nn.Module.compile
    # The eager backend keeps the test short; what is tested, counting across the graph's edge, is the same.
    monkeypatch.setattr(nn.Module, "compile", lambda self: real(self, backend="eager", fullgraph=True))
    plain = Classifier(make(Plain))
    compiled = Classifier(make(Plain), compile=True)
    for classifier in (compiled, copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        before = classifier.forwards
        assert classifier.network._compiled_call_impl is not None
        for _ in range(3):
            torch.testing.assert_close(input_gradient(classifier, noise()), input_gradient(plain, noise()))
        assert classifier.forwards - before == 12
        assert classifier.gradients - before == 12
    with torch._dynamo.config.patch(error_on_recompile=True):
        before = compiled.forwards
        around = torch.compile(lambda images: compiled(images) * 2, backend="eager")
        for _ in range(3):
            around(noise())
        assert compiled.forwards - before == 12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-2), (torch.float16, 2e-2)])
def test_autocast_returns_float32_and_stays_close(dtype, tolerance, efficientnet):
    settings = {"mean": efficientnet.mean, "std": efficientnet.std, "input_size": (64, 64)}
    images = noise(2, 64)
    expected = Classifier(efficientnet.module, **settings)(images)
    actual = Classifier(efficientnet.module, **settings, autocast=dtype)(images)
    assert actual.dtype == torch.float32
    difference = (actual - expected).abs().max() / expected.abs().max()
    assert 0 < difference < tolerance


def test_double_precision_passes_gradcheck():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
    )
    classifier = Classifier(randomise(module), mean=MEAN, std=STD, input_size=(6, 6)).double()
    images = noise(2, 6, torch.float64).requires_grad_()
    assert classifier(images).dtype == torch.float64
    assert torch.autograd.gradcheck(classifier, (images,), fast_mode=True)


def test_half_precision_weights_are_computed_in_float32():
    module = make(Plain).half()
    classifier = Classifier(module)
    assert classifier.folded == 1
    assert module.conv.weight.dtype == torch.float16
    assert_same_logits(
        classifier(noise().half()), plain_logits(module.float(), noise().half().float(), (0, 0, 0), (1, 1, 1))
    )


def test_an_expanded_and_permuted_batch():
    classifier = Classifier(make(Plain))
    image = noise(1)
    torch.testing.assert_close(classifier(image.expand(3, -1, -1, -1)), classifier(image.repeat(3, 1, 1, 1)))
    pixels = noise(2).permute(0, 2, 3, 1).contiguous()
    assert torch.equal(classifier(pixels.permute(0, 3, 1, 2)), classifier(noise(2)))


def test_counts_classes_and_says_what_it_is():
    classifier = Classifier(Plain(), input_size=(24, 24), class_names=list("abcd"))
    assert classifier.num_classes == 4
    assert classifier.class_names == ("a", "b", "c", "d")
    assert classifier.device == torch.device("cpu")
    assert "name='Plain', num_classes=4, input_size=(24, 24), folded=1" in repr(classifier)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 9))
    with warnings.catch_warnings(action="error"):
        assert Classifier(fixed).num_classes == 9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (0.5,)}, "mean and std must hold three numbers"),
        ({"std": (1, 0, 1)}, "std must be positive in every channel"),
        ({"autocast": torch.float64}, "autocast must be None, torch.bfloat16 or torch.float16"),
        ({"num_classes": 5}, "num_classes is 5, but the module returns 4 logits"),
        ({"class_names": ["a"]}, "class_names must hold 4 names, one per logit, got 1"),
        ({"module": nn.Linear(5, 2)}, r"must take \[N, 3, H, W\] images; it failed on 32x32, .*give input_size"),
        ({"module": nn.Identity()}, r"must return logits \[N, classes\]; for N = 2 it returned \[2, 3, 32, 32\]"),
    ],
)
def test_refusals(settings, words):
    with pytest.raises(InputError, match=words):
        Classifier(**{"module": Plain(), **settings})


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_refuses_what_is_no_batch_of_images(images):
    with pytest.raises(InputError, match=r"images must be \[N, 3, H, W\] floating point in \[0, 1\]"):
        Classifier(Plain())(images)


def test_input_gradient_is_contiguous_whatever_the_layout_inside():
    """Attack libraries flatten it with `view`."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    module(torch.rand(1, 3, 8, 8))
    classifier = Classifier(module, input_size=(8, 8))
    leaf = torch.rand(2, 3, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(leaf).sum(), leaf)
    assert classifier.channels_last
    assert gradient.is_contiguous()
