"""DCT quantisation on sizes that are no whole blocks, its gradient and its arguments; parity is with the others."""

import pytest
import torch

from cannonade.bench.oracles.dct import dct
from cannonade.errors import InputError
from cannonade.transforms.dct import Dct


@pytest.mark.parametrize("shape", [(17, 31), (16, 16), (9, 23)])
def test_odd_sizes_agree_with_oracle(shape):
    images = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(0))
    ours = Dct().transform(images, {})
    for image, own in zip(images, ours, strict=True):
        expected = torch.from_numpy(dct.function(image.permute(1, 2, 0).double().numpy(), {})).permute(2, 0, 1)
        torch.testing.assert_close(own.double(), expected, rtol=0, atol=1e-6)


def test_gradient_is_the_identity():
    leaf = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.autograd.grad(Dct().transform(leaf, {}), leaf, weights)[0], weights)


@pytest.mark.parametrize("settings", [{"block": 1}, {"low": 0.0}, {"high": -1.0}])
def test_refusals(settings):
    with pytest.raises(InputError, match="dct: block must be at least 2, low and high above 0"):
        Dct(**settings)
