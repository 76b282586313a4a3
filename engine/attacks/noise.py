"""Random noise of size eps: the least that an attack must beat."""

from dataclasses import dataclass

from torch import Tensor

from cannonade.attacks.norms import NORMS
from cannonade.attacks.random_search import RandomSearch
from cannonade.draws import Draws


@dataclass(frozen=True, kw_only=True)
class RandomNoise(RandomSearch):
    """A point drawn at random: in linf every value ±eps, in l2 and l1 uniform in the ball, whose mass lies at its surface.

    By default a single point, which nobody is asked about; with a budget of several, the best of them.
    """

    queries: int = 1

    def propose(self, images: Tensor, best: Tensor, number: int, draws: Draws) -> Tensor:
        """A point that has nothing to do with those before."""
        norm = NORMS[self.norm]
        noise = norm.start(images.shape, self.eps, draws).to(images.dtype)
        return norm.confine(images, self.eps * noise.sign() if self.norm == "linf" else noise, self.eps)
