"""What a transform drew can be saved and applied again."""

import pytest
import torch

import cannonade.defenses  # noqa: F401  # registers the composed ones too
from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.transforms.base import REGISTRY
from cannonade.transforms.replay import load_program, save_program


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_saved_and_applied_again(name, tmp_path):
    ids = torch.arange(4)
    transform = REGISTRY[name](**REGISTRY[name].example)
    images = torch.rand(4, 3, 24, 28, generator=torch.Generator().manual_seed(0))
    others = torch.rand(4, 3, 24, 28, generator=torch.Generator().manual_seed(1))
    draws = Draws(seed=2, phase=Phase.ATTACK, images=ids, queries=ids * 0)
    params = transform.sample(draws, images.shape)
    save_program(tmp_path / "program.safetensors", transform, params)
    again, loaded = load_program(tmp_path / "program.safetensors")
    assert again == transform
    for batch in (images, others):
        assert torch.equal(again.transform(batch, loaded), transform.transform(batch, params))


def test_nested_transforms_survive(tmp_path):
    from cannonade.defenses.bart import BaRT
    from cannonade.transforms.swirl import Swirl

    transform = BaRT(k=2, transforms=(Swirl(strength=(0.1, 0.2)), "hsv_shift", "rotation(degrees=5)"))
    ids = torch.arange(3)
    params = transform.sample(Draws(seed=0, phase=Phase.ATTACK, images=ids, queries=ids), torch.Size((3, 3, 24, 24)))
    save_program(tmp_path / "p.safetensors", transform, params)
    assert load_program(tmp_path / "p.safetensors")[0] == transform


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(InputError, match="save_program wrote"):
        load_program(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="save_program wrote"):
        load_program(path)
