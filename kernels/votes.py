"""Counting votes."""

import torch
from torch import Tensor

from cannonade.kernels.backend import NARROW, Backend, choose
from cannonade.kernels.device.votes import count


def count_votes_(counts: Tensor, rows: Tensor, logits: Tensor, backend: Backend = "auto") -> None:
    """Count each prediction for its image, in place: the class of the largest logit, the first of several.

    Args:
        counts: [N, K] int64, contiguous.
        rows: [R] int64, the image of each prediction.
        logits: [R, K] finite.
        backend: "auto", "triton" or "torch".
    """
    if choose(backend, logits, on_gpu=logits.dtype in NARROW) == "triton":
        count(counts, rows, logits)
    else:
        counts.index_put_((rows, logits.argmax(1)), torch.ones_like(rows), accumulate=True)
