"""A classifier made ready for attack: [0, 1] images in, logits out, frozen, folded, laid out and counted."""

import copy
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cannonade.errors import InputError
from cannonade.spans import span

# A module whose input size is not given is tried on squares of these sides: networks of one size fit only their own.
_PROBE_SIDES = (32, 64, 224, 299, 28, 96, 128, 16, 8)
_AGREEMENT = 1e-4  # of the largest logit, between a module and its folded, channels_last form

_PROBABILITIES = (
    "the module must return logits, but its outputs are at least 0 and add up to 1, as probabilities do: an attack's losses "
    "take a softmax of them, so leave out the module's own"
)
_HALF = (torch.bfloat16, torch.float16)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Network(nn.Module):
    """Normalisation, layout, precision and the module: everything of a classifier that torch.compile may see.

    Args:
        module: maps normalised images to logits; half-precision weights are made float32.
        mean, std: per channel, in units of [0, 1].

    Attributes:
        channels_last: whether the module gets its input in that layout; its weights are whoever's sets it.
        autocast: precision of the module's forward and backward; normalisation stays in that of the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        self.channels_last = False
        self.autocast: torch.dtype | None = None
        parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
        if any(parameter.dtype in _HALF for parameter in parameters):
            module.float()
        like = parameters[0] if parameters else torch.empty(0)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1], or a little outside it, to logits [N, K]."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        inputs = ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=layout)
        with nullcontext() if self.autocast is None else torch.autocast(images.device.type, dtype=self.autocast):
            logits: Tensor = self.module(inputs)
        return logits.to(self.mean.dtype)


class Classifier(nn.Module):
    """A fixed classifier of [0, 1] images, ready for attack.

    The module given is copied: folding and freezing never reach the caller's. The copy is in eval mode, and stays so
    (`train()` changes nothing); its weights take no gradient, so backward computes input gradients only. Images are
    not clamped: Gaussian noise that leaves [0, 1], as in randomised smoothing, reaches the module as it is.

    Float32 means float32 in the type, not yet in the arithmetic: cuDNN convolutions use TF32 unless
    `torch.backends.cudnn.allow_tf32 = False`. That switch is the whole process's and also governs backward, so a
    classifier leaves it to whoever owns the run.

    What is prepared is checked on two random images before it is used: a folded or channels_last form that fails, or
    whose logits differ by more than 1e-4 of the largest, is dropped with a warning. Where nothing can be folded,
    `folded` is 0; a module without convolutions is left in the contiguous layout.

    Args:
        module: maps normalised images [N, 3, H, W] to logits [N, classes].
        mean: per channel, subtracted from the images, in units of [0, 1].
        std: per channel, divides them; computed in float32 (float64 once the classifier is moved to double), not folded
            into the first convolution, whose zero padding would then be wrong.
        input_size: (height, width) the module is meant for; None where it has no preference.
        num_classes: how many logits; None counts them on one forward.
        class_names: one per logit.
        class_numbers: the number that each logit's class has in its data set; None for 0, 1, 2, …
        fold_batch_norm: fold each batch norm that directly follows a convolution into it.
        channels_last: keep weights and activations in channels_last, faster than contiguous on CPUs and tensor cores.
        autocast: torch.bfloat16 or torch.float16 for the module's forward and backward; logits stay float32. Nothing
            scales the loss, so float16 can round small gradients to zero. A module whose weights are already half
            precision is computed in float32 unless this is set.
        compile: torch.compile the network. Slower than plain execution where it was measured on a CPU.
        name: for reports.

    Attributes:
        folded: how many batch norms were folded.
        channels_last: whether the layout is in use.
        forwards: images passed forward so far.
        gradients: images whose gradient backward has computed so far. Both may be set to 0 at any time.

    Raises:
        InputError: an argument is out of range, or the module does not return [N, num_classes] logits.

    Warns:
        UserWarning: the module returns probabilities, or what was prepared was dropped.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> classifier = Classifier(net, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> classifier.num_classes, classifier.folded
        (4, 1)
        >>> classifier(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
        input_size: tuple[int, int] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_numbers: Sequence[int] | None = None,
        fold_batch_norm: bool = True,
        channels_last: bool = True,
        autocast: torch.dtype | None = None,
        compile: bool = False,
        name: str = "",
    ) -> None:
        super().__init__()
        _check_normalisation(mean, std)
        if autocast not in (None, *_HALF):
            raise InputError(f"autocast must be None, torch.bfloat16 or torch.float16, got {autocast}")
        self.name = name or type(module).__name__
        self.input_size = input_size
        self.forwards = 0
        self.gradients = 0
        self.compiled = compile
        network = Network(copy.deepcopy(module), mean, std)
        probe, reference = _probe(network.requires_grad_(False).eval(), input_size)
        self.num_classes = _class_count(reference, num_classes)
        if _are_probabilities(reference):
            warnings.warn(_PROBABILITIES, stacklevel=2)
        if class_names is not None and len(class_names) != self.num_classes:
            raise InputError(f"class_names must hold {self.num_classes} names, one per logit, got {len(class_names)}")
        self.class_names = None if class_names is None else tuple(class_names)
        if class_numbers is not None and len(set(class_numbers)) != self.num_classes:
            raise InputError(f"class_numbers must be {self.num_classes} different ones, got {list(class_numbers)}")
        self.class_numbers = None if class_numbers is None else tuple(class_numbers)
        self.folded = 0
        if fold_batch_norm:
            network, self.folded = _fold(network, probe, reference)
        if channels_last and any(parameter.ndim == 4 for parameter in network.parameters()):
            network = _lay_out(network, probe, reference)
        network.autocast = autocast
        self.network = network
        self.train(False)
        if compile:
            self.network.compile()

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the images must be."""
        return self.network.mean.device

    @property
    def channels_last(self) -> bool:
        """Whether weights and activations are laid out channels_last."""
        return self.network.channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: [N, 3, H, W], floating point, in [0, 1] or a little outside it.

        Returns:
            Logits [N, num_classes], float32; float64 from a classifier moved to double.

        Raises:
            InputError: the images have another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            shape = list(images.shape)
            raise InputError(f"images must be [N, 3, H, W] floating point in [0, 1], got {shape} {images.dtype}")
        with span("model"):
            logits: Tensor = self._count(self.network(_with_plain_gradient(images)), len(images))
        return logits

    # Integers counted inside a compiled graph would recompile it at every call.
    @torch.compiler.disable
    def _count(self, logits: Tensor, images: int) -> Tensor:
        """Count a forward now, and its gradient if and when backward runs."""

        def count_gradients(_: Tensor) -> None:
            self.gradients += images

        self.forwards += images
        if logits.requires_grad:
            logits.register_hook(count_gradients)
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """Stay in eval mode whatever is asked: the classifier under attack is fixed."""
        super().train(False)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.compiled:
            self.network.compile()  # a compiled call is not part of a module's state

    def extra_repr(self) -> str:
        """Name, classes and what was prepared."""
        return (
            f"name={self.name!r}, num_classes={self.num_classes}, input_size={self.input_size}, folded={self.folded}, "
            f"channels_last={self.channels_last}, autocast={self.network.autocast}, compile={self.compiled}"
        )


@torch.compiler.disable
def _with_plain_gradient(images: Tensor) -> Tensor:
    """The images, with a gradient in the contiguous layout: attack libraries call `grad.view(N, -1)`."""
    if not images.requires_grad:
        return images
    alias = images.view_as(images)
    alias.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
    return alias


def _check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) != 3 or len(std) != 3:
        raise InputError(f"mean and std must hold three numbers, one per channel, got {tuple(mean)} and {tuple(std)}")
    if not all(value > 0 for value in std):
        raise InputError(f"std must be positive in every channel, got {tuple(std)}")


def _probe(network: Network, input_size: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Two random images that the network takes, and its logits for them."""
    sizes = [input_size] if input_size else [(side, side) for side in _PROBE_SIDES]
    failure: RuntimeError | None = None
    for size in sizes:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(network.mean.device)
        try:
            with torch.no_grad():
                logits = network(images)
        except RuntimeError as error:
            failure = error
            continue
        return images, logits
    tried = ", ".join(f"{height}x{width}" for height, width in sizes)
    raise InputError(
        f"the module must take [N, 3, H, W] images; it failed on {tried} (give input_size=(height, width) if it needs "
        f"another): {failure}"
    ) from failure


def _class_count(logits: Tensor, expected: int | None) -> int:
    if logits.ndim != 2 or len(logits) != 2:
        raise InputError(f"the module must return logits [N, classes]; for N = 2 it returned {list(logits.shape)}")
    classes = logits.shape[1]
    if expected not in (None, classes):
        raise InputError(f"num_classes is {expected}, but the module returns {classes} logits")
    return classes


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether each row is a distribution over at least two classes; rows of 0 and 1 alone are votes."""
    shares = ((outputs > 0) & (outputs < 1)).any()
    return bool((outputs >= 0).all() and ((outputs.double().sum(1) - 1).abs() < 1e-4).all() and shares)


def _agrees(network: Network, probe: Tensor, reference: Tensor) -> bool:
    with torch.no_grad():
        difference = (network(probe) - reference).abs().max()
    return bool(difference <= _AGREEMENT * reference.abs().max())


def _fold(network: Network, probe: Tensor, reference: Tensor) -> tuple[Network, int]:
    """The network with batch norms folded, and how many were."""
    pairs = _foldable(network.module)
    if not pairs:
        return network, 0
    folded = copy.deepcopy(network)
    for conv_name, norm_name in pairs:
        conv, norm = folded.module.get_submodule(conv_name), folded.module.get_submodule(norm_name)
        fused = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var, arg-type]
        conv.weight, conv.bias = fused.weight, fused.bias
        for parent in folded.module.modules():
            names = [name for name, child in parent._modules.items() if child is norm]  # it may have several
            parent._modules.update(dict.fromkeys(names, nn.Identity()))
    if _agrees(folded, probe, reference):
        return folded.requires_grad_(False), len(pairs)
    warnings.warn("folding batch norms changed the logits, so the classifier runs unfolded", stacklevel=3)
    return network, 0


def _foldable(module: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions that feed one batch norm and nothing else, and of those batch norms."""
    if not any(type(part) is nn.BatchNorm2d for part in module.modules()):
        return []
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # tracing runs the module's own code on stand-ins for tensors: it may raise anything
        return []
    modules = dict(module.named_modules(remove_duplicate=False))
    calls = Counter(modules[str(node.target)] for node in graph.nodes if node.op == "call_module")
    read = [modules.get(str(node.target).rpartition(".")[0]) for node in graph.nodes if node.op == "get_attr"]

    def plain(node: Any, kind: type[nn.Module]) -> bool:
        """Whether a node calls a module of exactly this type, the only thing ever done with that module."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return False
        called = modules[str(node.target)]
        return (
            type(called) is kind
            and calls[called] == 1
            and not called._parameters.keys() - {"weight", "bias"}
            and not any(getattr(called, hooks) for hooks in _HOOKS)
            and not any(reader is called for reader in read)
        )

    pairs = []
    for node in graph.nodes:
        if not plain(node, nn.BatchNorm2d) or not plain(node.args[0], nn.Conv2d) or len(node.args[0].users) != 1:
            continue
        conv, norm = modules[str(node.args[0].target)], modules[str(node.target)]
        if norm.running_mean is not None and conv.weight.dtype in (torch.float32, torch.float64):
            pairs.append((str(node.args[0].target), str(node.target)))
    return pairs


def _lay_out(network: Network, probe: Tensor, reference: Tensor) -> Network:
    """The network in channels_last, or as it is where its code relies on the contiguous layout."""
    laid_out = copy.deepcopy(network).to(memory_format=torch.channels_last)
    laid_out.channels_last = True
    reason = "changed its logits"
    try:
        if _agrees(laid_out, probe, reference):
            return laid_out
    except RuntimeError as error:  # `view` on activations: the module should say `flatten` or `reshape`
        reason = f"made it fail ({error})"
    warnings.warn(f"channels_last {reason}, so the classifier runs in the contiguous layout", stacklevel=3)
    return network
