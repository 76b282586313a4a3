"""Images put together from the patches of a bank.

Which patch and which seam is decided on 8-bit values: sums of squares of integers are exact in any order, so ties and
choices are the same on every device and in every batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1 << 20  # distances held at a time


def tile_counts(shape: torch.Size, size: int, overlap: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover images of this shape [..., H, W], the last ones maybe beyond the border."""
    stride = size - overlap
    rows, columns = (max(1, -(-(side - overlap) // stride)) for side in shape[-2:])
    return rows, columns


def nearest_patches(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """The k nearest patches of a bank in Euclidean distance of 8-bit values, nearest first, ties to the smaller index.

    Args:
        queries: [Q, 3, p, p] in [0, 1].
        bank: [M, 3, p, p] in [0, 1], M ≥ k.

    Returns:
        [Q, k] int64 indices into the bank.
    """
    width, count = bank[0].numel(), len(bank)
    # Twice the inner product is the largest number; float32 holds integers to 2^24, and so do its products in TF32.
    exact = torch.float32 if 2 * width * 255**2 < 1 << 24 else torch.float64
    points = _eight_bit(bank).to(exact).flatten(1)
    norms, index = points.square().sum(1), torch.arange(count, device=bank.device)
    found = []
    step = max(1, _CHUNK // count)
    for start in range(0, max(1, len(queries)), step):
        targets = _eight_bit(queries[start : start + step]).to(exact).flatten(1)
        distance = torch.addmm(norms, targets, points.T, alpha=-2)
        found.append(distance.double().mul_(count).add_(index).topk(k, dim=1, largest=False).indices)
    return torch.cat(found)


def quilt(images: Tensor, bank: Tensor, choice: Tensor, k: int, overlap: int) -> Tensor:
    """Replace every tile of a grid by one of its k nearest patches, joined along minimum-cut seams.

    Tiles of the bank's size lie on a grid with the given overlap; images are extended by their border pixels to
    complete the last ones, and cut back. A tile begins at the seam of least squared difference from its left neighbour
    and at that from its upper neighbour. Seams are found between the patches of neighbouring tiles, all at once, where
    Guo et al. take the tiles in turn and compare with the image built so far: that differs where four tiles meet. No
    gradient is recorded.

    Args:
        images: [N, 3, H, W] in [0, 1], H and W ≥ p.
        bank: [M, 3, p, p] in [0, 1].
        choice: [N, rows, columns] integers in 0 … k−1: which of the nearest patches each tile gets.
        k: number of nearest patches to choose from, ≤ M.
        overlap: of neighbouring tiles in pixels, at most p/2.

    Returns:
        [N, 3, H, W] of the images' dtype, made of the bank's values.

    Source: Guo et al., ICLR 2018, section 4.3; seams by Efros and Freeman, SIGGRAPH 2001.
    """
    with torch.no_grad():
        size = bank.shape[-1]
        rows, columns = choice.shape[1:]
        queries = _tiles(images, rows, columns, size, overlap)
        nearest = nearest_patches(queries.flatten(0, 2), bank, k)
        picked = nearest.gather(1, choice.reshape(-1, 1)).reshape(choice.shape)
        own = _owned(_eight_bit(bank).to(torch.int32), picked, overlap)
        return _assemble(bank.to(images.dtype), picked, own, overlap)[..., : images.shape[2], : images.shape[3]]


def _eight_bit(x: Tensor) -> Tensor:
    return (x * 255).round()


def _tiles(images: Tensor, rows: int, columns: int, size: int, overlap: int) -> Tensor:
    """The tiles [N, rows, columns, 3, p, p] of images, extended by their border pixels."""
    local = torch.arange(size, device=images.device)
    y, x = (
        (torch.arange(count, device=images.device)[:, None] * (size - overlap) + local).clamp(max=side - 1)
        for count, side in ((rows, images.shape[2]), (columns, images.shape[3]))
    )
    return images.permute(0, 2, 3, 1)[:, y[:, None, :, None], x[None, :, None, :]].movedim(-1, 3)


def _owned(bank: Tensor, picked: Tensor, overlap: int) -> Tensor:
    """Which pixels of its patch a tile paints, over what the tiles before it left: [N, rows, columns, p, p] bool."""
    size = bank.shape[-1]
    own = torch.ones(*picked.shape, size, size, dtype=torch.bool, device=bank.device)
    index = torch.arange(overlap, device=bank.device)
    # The seam to the upper neighbour is the seam to the left one in the transposed picture.
    for points, grid, mask in (
        (bank, picked, own),
        (bank.transpose(-1, -2), picked.transpose(1, 2), own.transpose(1, 2).transpose(-1, -2)),
    ):
        before, after = points[..., size - overlap :][grid[:, :, :-1]], points[..., :overlap][grid[:, :, 1:]]
        seam = _seam(before.sub_(after).square_().sum(-3, dtype=torch.int32))
        mask[:, :, 1:, :, :overlap] &= index >= seam[..., None]
    return own


def _seam(cost: Tensor) -> Tensor:
    """The cheapest path from top to bottom that moves by at most one column a row, leftmost on ties.

    Args:
        cost: [..., p, overlap] integers.

    Returns:
        [..., p] column of the path in every row.
    """
    far = torch.iinfo(cost.dtype).max // 2
    below = [cost[..., -1, :]]
    for row in range(cost.shape[-2] - 2, -1, -1):
        near = F.pad(below[0], (1, 1), value=far).unfold(-1, 3, 1).amin(-1)
        below.insert(0, cost[..., row, :] + near)
    column = below[0].argmin(-1)
    path = [column]
    index = torch.arange(cost.shape[-1], device=cost.device)
    for cost_below in below[1:]:
        column = cost_below.masked_fill((index - column[..., None]).abs() > 1, far).argmin(-1)
        path.append(column)
    return torch.stack(path, dim=-1)


def _assemble(bank: Tensor, picked: Tensor, own: Tensor, overlap: int) -> Tensor:
    """Paint the tiles in raster order where they own their pixels: [N, 3, …, …], as large as the grid or larger.

    A cell of stride × stride pixels is touched by the tile that begins in it and by those before it in each direction.
    """
    count, rows, columns = picked.shape
    stride = bank.shape[-1] - overlap
    cells = bank.new_zeros(count, rows + 1, columns + 1, 3, stride, stride)
    inner, outer = (slice(stride), slice(stride)), (slice(stride, None), slice(overlap))
    for down, (from_y, to_y) in ((1, outer), (0, inner)):
        for right, (from_x, to_x) in ((1, outer), (0, inner)):
            target = cells[:, down : down + rows, right : right + columns, :, to_y, to_x]
            paint = bank[..., from_y, from_x][picked]
            target.copy_(torch.where(own[:, :, :, None, from_y, from_x], paint, target))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
