"""Every transform with an oracle agrees with it, on photos and on noisy photos."""

import pytest

from cannonade.bench.oracles import find
from cannonade.bench.parity import noisy, parity
from cannonade.transforms.base import REGISTRY

SIDE = 96  # crops keep the slow oracles short; `cannonade bench transforms` runs the same comparison on whole photos


@pytest.mark.parametrize("name", [name for name in REGISTRY if find(name)])
def test_agrees_with_oracle(name, photos):
    oracle = find(name)
    transform = REGISTRY[name](**REGISTRY[name].example)
    crops = photos[:, :, 64 : 64 + SIDE, 64 : 64 + SIDE + 8]
    results = [parity(transform, oracle, images) for images in (crops, noisy(crops))]
    for result in results:
        assert result.mean <= oracle.tolerance, result
        assert result.max <= oracle.max_tolerance, result
    assert oracle.tolerance <= 0.1 * max(result.effect for result in results), "the identity would pass this tolerance"
