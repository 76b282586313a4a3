"""Our transforms on arrays of other libraries, such as JAX, CuPy and NumPy, by DLPack: nothing is copied on the way."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import Transform


def transform_array(transform: Transform, array: Any, *, seed: int = 0, ids: Any = None, query: int = 0) -> Any:
    """Transform images that lie in an array of another library.

    Args:
        transform: any transform or defense of ours.
        array: [N, 3, H, W] floating point in [0, 1], an array of any library with `__dlpack__`, on any device that PyTorch has.
        seed: of the draws, in [0, 2^64).
        ids: N integers, each image's index in its data set; 0 … N−1 by default. Equal seed, id and query give equal draws.
        query: how often the transform has been asked before about these images.

    Returns:
        [N, 3, H, W], an array of the same library, on the same device; a tensor where the library does not follow the array
        API standard, which `from_dlpack` of any library takes.

    Raises:
        InputError: no array, or one whose values are no images, or ids that are not N integers.
    """
    images = to_tensor(array)
    numbers = torch.arange(len(images)) if ids is None else torch.as_tensor(ids)
    if numbers.is_floating_point() or numbers.shape != (len(images),):
        raise InputError(
            f"ids must be {len(images)} integers, one for each image, got {list(numbers.shape)} {numbers.dtype}"
        )
    numbers = numbers.long()  # JAX's are int32
    draws = Draws(seed=seed, phase=Phase.FORWARD, images=numbers, queries=torch.full_like(numbers, query))
    with torch.no_grad():
        found = transform(images, draws)
    return found if isinstance(array, Tensor) else from_tensor(found, array)


def to_tensor(array: Any) -> Tensor:
    """A tensor on the array's memory.

    Raises:
        InputError: it has no `__dlpack__`, or does not hand its memory over.
    """
    if not hasattr(array, "__dlpack__"):
        raise InputError(
            f"array must have __dlpack__, as those of JAX, CuPy and NumPy have, got {type(array).__name__}"
        )
    try:
        return from_dlpack(array)
    except (BufferError, TypeError) as error:
        raise InputError(f"the array must be one that DLPack hands over; copy it first: {error}") from error


def from_tensor(tensor: Tensor, like: Any) -> Any:
    """An array of `like`'s library on the tensor's memory; the tensor itself where the library is not to be found."""
    if not hasattr(like, "__array_namespace__"):
        return tensor
    return like.__array_namespace__().from_dlpack(tensor.contiguous())
