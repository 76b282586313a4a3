"""Does a kernel do what its reference does? For kernels on Triton, in the interpreter or on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cannonade.kernels.device.rows import Rows, every

Function = Callable[[Tensor, str], Tensor]


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN, or the smallest integer: what a kernel does not write is seen."""
    makers: dict[tuple[Any, str], Callable[..., Tensor]] = {
        (torch, "empty"): torch.empty,
        (torch, "empty_like"): torch.empty_like,
        (torch.Tensor, "new_empty"): torch.Tensor.new_empty,
    }

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **options: Any) -> Tensor:
            out = make(*args, **options)
            worst = (
                torch.nan if out.is_floating_point() else (0 if out.dtype == torch.bool else torch.iinfo(out.dtype).min)
            )
            return out.fill_(worst)

        return made

    try:
        for (owner, name), make in makers.items():
            setattr(owner, name, poison(make))
        yield
    finally:
        for (owner, name), make in makers.items():
            setattr(owner, name, make)


def run(function: Function, images: Tensor, grad: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and its gradient from two backward passes."""
    leaf = images.detach().requires_grad_()
    out = function(leaf, backend)
    first, second = (torch.autograd.grad(out, leaf, grad, retain_graph=True)[0] for _ in range(2))
    return out.detach(), first, second


def check_kernel(
    function: Function,
    images: Tensor,
    tolerance: float,
    *,
    gradient_tolerance: float | None = None,
    storage: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16),
    differentiable: bool = True,
) -> None:
    """Hold `function(images, "triton")` against `function(images, "torch")`, forward and backward.

    Args:
        function: of images [3, C, H, W] and a backend; its other arguments bound, each image with parameters of its own.
        images: float32.
        tolerance, gradient_tolerance: largest differences in float32.
        storage: other types of images, whose result is that of float32, rounded.
        differentiable: off, only the results are compared.
    """
    gradient_tolerance = tolerance if gradient_tolerance is None else gradient_tolerance
    generator = torch.Generator(images.device.type).manual_seed(9)
    views = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "turned": images.transpose(2, 3).contiguous().transpose(2, 3),
        "one image thrice": images[:1].expand(images.shape),
    }
    for name, view in views.items():
        if not differentiable:
            with poisoned():
                out = function(view, "triton")
            torch.testing.assert_close(out, function(view, "torch"), rtol=0, atol=tolerance, msg=_naming(name))
            continue
        shape = function(images, "torch").shape
        random = torch.randn(shape, generator=generator, device=images.device)
        grad = {
            "channels last": random.transpose(2, 3).contiguous().transpose(2, 3) if random.dim() == 4 else random,
            "turned": random.new_ones(()).expand(shape),  # what sum() sends back
            "one image thrice": random,
        }[name]
        expected, slope, _ = run(function, view, grad, "torch")
        with poisoned():
            out, first, second = run(function, view, grad, "triton")
        torch.testing.assert_close(out, expected, rtol=0, atol=tolerance, msg=_naming(name))
        torch.testing.assert_close(first, slope, rtol=0, atol=gradient_tolerance, msg=_naming(f"{name}, gradient"))
        assert torch.equal(first, second), f"{name}: a second backward differs"
    for dtype in storage:
        narrow = images.to(dtype)
        out = function(narrow, "triton")
        assert out.dtype == dtype
        expected = function(narrow.float(), "torch")
        rounding = float(torch.finfo(dtype).eps) * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance + rounding, msg=_naming(str(dtype)))


def check_rows(
    launcher: Callable[[Rows, Rows], None], count: int, shape: tuple[int, ...], device: torch.device
) -> None:
    """Launch on rows of buffers, in any order, some read twice and one left out by −1: as on plain batches, and no other row
    is touched.

    Args:
        launcher: of where to write and what to read.
        count: images of a launch.
        shape: [C, H, W] of one image.
        device: to run on.
    """
    generator = torch.Generator().manual_seed(11)
    source = torch.rand((count + 2, *shape), generator=generator).to(device)
    read = torch.randint(0, count + 2, (count,), generator=generator).to(device)
    write = torch.randperm(2 * count, generator=generator)[:count].to(device)
    expected = torch.empty((count, *shape), device=device)
    launcher(every(expected), every(source[read]))
    out = torch.full((2 * count, *shape), torch.nan, device=device)
    here = torch.arange(count, device=device) != 1
    launcher(Rows(out, torch.where(here, write, -1)), Rows(source, torch.where(here, read, -1)))
    assert torch.equal(out[write[here]], expected[here])
    out[write[here]] = torch.nan
    assert out.isnan().all(), "a row that is not of the launch was written"


def _naming(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"
