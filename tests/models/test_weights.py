"""Weight files: what is read, what is refused, and what the refusal says."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cannonade.errors import InputError
from cannonade.models.weights import load_weights, read_state_dict, unwrap


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    ],
)
def test_reads_what_torch_saved(tmp_path, wrap, legacy):
    path = tmp_path / "weights.pth"
    torch.save(wrap(net().state_dict()), path, _use_new_zipfile_serialization=not legacy)
    assert read_state_dict(path).keys() == net().state_dict().keys()


def test_reads_safetensors_and_fits_them(tmp_path):
    source, target = net(), net()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, read_state_dict(tmp_path / "weights.safetensors"), "the file")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"weights must be a file, got .*none\.pth: no such file"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(InputError, match="a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.pth.tar", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["empty", "text", "noise", "cut"])
def test_damaged_files(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "cut":
        save_file(net().state_dict(), path) if "safe" in name else torch.save(net().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-300])
    else:
        path.write_bytes({"empty": b"", "text": b"<html>not found</html>\n" * 9, "noise": bytes(range(256)) * 8}[kind])
    with pytest.raises(InputError, match=r"safetensors file or a state dict.*damaged or of another format"):
        read_state_dict(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, legacy):
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"state_dict": Malicious(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"holds an object \((posix|nt)\.system\) that could run code"):
        read_state_dict(path)
    assert not marker.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(net(), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"could run code; save tensors alone, as in module\.state_dict\(\)"):
        read_state_dict(tmp_path / "module.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"epoch": 3, "a": torch.zeros(2)}])
def test_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="weights must be a state dict"):
        read_state_dict(tmp_path / "weights.pt")


def test_a_mismatch_names_the_keys():
    state = net().state_dict()
    del state["0.bias"], state["1.num_batches_tracked"]
    state["2.weight"] = torch.zeros(5, 4)
    state |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(InputError) as refusal:
        load_weights(net(), state, "FILE")
    assert str(refusal.value) == (
        "weights must fit Sequential, got FILE with keys missing: 0.bias; "
        "unexpected: extra.0, extra.1, extra.2, extra.3 and 5 more; of another shape: 2.weight [5, 4] instead of [2, 4]"
    )


def test_a_mismatch_leaves_the_module_alone():
    module = net()
    before = module[0].weight.clone()
    with pytest.raises(InputError):
        load_weights(module, {"0.weight": torch.zeros(4, 3, 3, 3)}, "FILE")
    assert torch.equal(module[0].weight, before)


def test_prefixes_are_stripped_only_from_all_keys():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrap(state, "FILE").keys() == state.keys()
