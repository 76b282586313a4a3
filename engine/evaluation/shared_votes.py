"""What runs that attack the same defended classifier on the same images have in common, computed once."""

from torch import Tensor

from cannonade.chunking import Chunk, resolve_chunk
from cannonade.defended import DefendedClassifier
from cannonade.draws import Phase
from cannonade.voting import Votes, majority_vote

_NO_LIMIT = 1 << 62


class SharedVotes:
    """The rows of one pass and the benign votes of a (model, data, defense, seed, number of votes).

    A benign vote has the bits that each run would have found for itself, because its draws are a function of seed and image.
    """

    def __init__(self) -> None:
        self._chunk: int | None = None
        self._votes: dict[tuple[tuple[int, ...], int], Votes] = {}

    def chunk(self, chunk: Chunk, defended: DefendedClassifier, images: Tensor, rows: int) -> int:
        """As `resolve_chunk`, but measured once: the memory that is free differs from one time to the next."""
        if self._chunk is None:
            self._chunk = resolve_chunk(chunk, defended, images, _NO_LIMIT)
        return min(self._chunk, rows)

    def benign_vote(self, defended: DefendedClassifier, images: Tensor, n: int, ids: Tensor, chunk: int) -> Votes:
        """The vote on clean images, cast when it is first asked for.

        Args:
            defended: the same each time.
            images: [N, 3, H, W] in [0, 1], always the same for the same ids.
            n: predictions of a vote, the same each time.
            ids: [N] int64, each image's index in its data set.
            chunk: rows of one pass. The model may round by it, so that passes of another size are another vote.
        """
        key = tuple(ids.tolist()), min(chunk, len(ids) * n)
        if key not in self._votes:
            self._votes[key] = majority_vote(defended, images, n, phase=Phase.BENIGN_VOTE, ids=ids, chunk=chunk)
        return self._votes[key]
