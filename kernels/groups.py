"""Rows that must share a shape or a mode, computed together and put back in order."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_group(keys: Tensor, function: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Compute rows in groups of equal key and put them back in order: for operations that need one shape or mode.

    Args:
        keys: [N] integers.
        function: takes a key and the rows that have it ([M] int64, ascending); returns [M, ...].

    Returns:
        [N, ...], differentiable. An empty batch calls `function` once with key 0 and no rows.
    """
    groups = [(key, (keys == key).nonzero()[:, 0]) for key in keys.unique().tolist()] or [(0, keys.new_empty(0))]
    out = torch.cat([function(int(key), rows) for key, rows in groups])
    if len(groups) == 1:
        return out
    return out.index_select(0, torch.cat([rows for _, rows in groups]).argsort())
