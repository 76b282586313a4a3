"""Philox against its published vectors, and the device kernel against the reference."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from cannonade.errors import InputError
from cannonade.kernels import philox as module
from cannonade.kernels.backend import jit, tl
from cannonade.kernels.philox import convert, draw, philox, philox_jit, slices

KINDS = ("words", "uniform", "normal")
LARGEST = 0xFFFFFFFF
# Random123's tests/kat_vectors: counter, key, words of philox4x32-10.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((LARGEST,) * 4, (LARGEST,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def random_coordinates(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1 << 32, (rows, 5), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    result = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(map(int, result)) == words


def test_shapes_broadcast_and_words_fit_32_bits():
    counter = (torch.arange(7), torch.full((3, 1), LARGEST), torch.tensor(5), torch.arange(3)[:, None])
    for word in philox(counter, (torch.tensor(1), torch.arange(2)[:, None, None])):
        assert word.shape == (2, 3, 7)
        assert word.min() >= 0
        assert word.max() <= LARGEST


@jit
def _words_kernel(out_ptr, block, image, query, site, key0, key1):
    lane = tl.arange(0, 1)
    x0, x1, x2, x3 = philox_jit(lane + block, lane + image, lane + query, lane + site, lane + key0, lane + key1)
    tl.store(out_ptr + lane, x0.to(tl.int64))
    tl.store(out_ptr + 1 + lane, x1.to(tl.int64))
    tl.store(out_ptr + 2 + lane, x2.to(tl.int64))
    tl.store(out_ptr + 3 + lane, x3.to(tl.int64))


@pytest.mark.interpreter
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers_on_the_device(counter, key, words):
    out = torch.empty(4, dtype=torch.int64)
    _words_kernel[(1,)](out, *counter, *key)
    assert tuple(out.tolist()) == words


# Rows and counts on both sides of a tile's 256 counters, of 4 lanes, and of a power of two.
@pytest.mark.interpreter
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "count"),
    [(0, 5), (3, 0), (1, 1), (3, 4), (3, 7), (257, 4), (65, 13), (2, 1023), (2, 1025), (1, 3 * 17 * 31)],
)
def test_kernel_agrees_with_reference(rows, count, kind):
    coordinates = random_coordinates(rows)
    device, reference = (draw(coordinates, count, kind, backend) for backend in ("triton", "torch"))
    assert device.shape == reference.shape == (rows, count)
    assert device.dtype == reference.dtype
    torch.testing.assert_close(device, reference, rtol=0, atol=2e-6 if kind == "normal" else 0)


@pytest.mark.interpreter
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_reads_any_strides_and_extreme_coordinates(kind):
    transposed = random_coordinates(6).T.contiguous().T
    expanded = torch.tensor([[LARGEST, LARGEST, LARGEST, LARGEST, LARGEST]]).expand(6, 5)
    for coordinates in (transposed, expanded, random_coordinates(12)[::2]):
        difference = draw(coordinates, 11, kind, "triton") - draw(coordinates, 11, kind, "torch")
        assert difference.abs().max() <= (2e-6 if kind == "normal" else 0)


@pytest.mark.interpreter
@pytest.mark.parametrize("kind", KINDS)
def test_operator_is_registered_correctly(kind):
    torch.library.opcheck(torch.ops.cannonade.draw.default, (random_coordinates(3), 10, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_compiles_without_spills(offline, kind):
    value = "*i64" if kind == "words" else "*fp32"
    types = {"out_ptr": value, "coordinates_ptr": "*i64", "n_rows": "i32", "n_blocks": "i32", "count": "i32"}
    compiled = offline(module._draw_kernel, types, aligned=("count",), KIND=kind, ROWS=1, BLOCKS=256)
    assert compiled.spilled == 0
    assert compiled.registers <= 40
    assert "st.global.v2.b64" in compiled.ptx or "st.global.v4.b32" in compiled.ptx, "stores must be 16 bytes wide"
    # The interpreter cannot see these: near u = 1 the radius needs a logarithm of small relative error.
    assert "lg2.approx" not in compiled.ptx
    assert "sqrt.approx" not in compiled.ptx


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (1, 1), (5, 7), (40_000, 3), (3, 40_000), (2, 1 << 15)])
def test_slices_cover_every_counter_once(rows, columns):
    seen = torch.zeros(rows, columns, dtype=torch.int64)
    for part in slices(rows, columns, seen.device):
        seen[part] += 1
        assert seen[part].numel() <= 1 << 15
    assert (seen == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "count"), [(20_000, 6), (5, (1 << 17) + 9)])
def test_slicing_does_not_change_a_bit(rows, count, kind, monkeypatch):
    coordinates = random_coordinates(rows)
    sliced = draw(coordinates, count, kind, "torch")
    monkeypatch.setattr(module, "_SLICE", 1 << 40)
    assert torch.equal(sliced, draw(coordinates, count, kind, "torch"))
    monkeypatch.setattr(module, "_SLICE", 1013)
    monkeypatch.setattr(module, "_PAIRS", 1009)
    assert torch.equal(sliced, draw(coordinates, count, kind, "torch"))


def test_element_is_a_lane_of_its_counter():
    coordinates = random_coordinates(3)
    words = draw(coordinates, 10)
    for row, (k0, k1, image, query, site) in enumerate(coordinates):
        for element in range(10):
            own = philox((torch.tensor(element // 4), image, query, site), (k0, k1))
            assert words[row, element] == own[element % 4]


def test_uniform_and_normal_follow_their_definitions():
    words = draw(random_coordinates(4), 50_000)
    high = (words >> 8).numpy().astype(np.float64)
    assert np.array_equal(convert(words, "uniform").numpy(), high * 2.0**-24)
    radius, angle = np.sqrt(-2 * np.log((high[:, 0::2] + 1) * 2.0**-24)), high[:, 1::2] * 2 * np.pi * 2.0**-24
    normal = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1).reshape(4, -1)
    # The angle is rounded to float32 (2.4e-7 near 2π), and the radius reaches 5.77.
    assert np.abs(convert(words, "normal", "torch").numpy() - normal).max() < 2e-6


def test_extreme_words_give_finite_normals():
    words = torch.tensor([[0, 0, LARGEST, LARGEST], [0, LARGEST, LARGEST, 0]])
    normal = convert(words, "normal")
    assert normal.isfinite().all()
    assert 5.76 < normal.abs().max() < 5.8
    assert convert(words, "uniform").max() == 1 - 2.0**-24


def test_fake_tensors_have_the_right_shape():
    for kind, dtype in zip(KINDS, (torch.int64, torch.float32, torch.float32), strict=True):
        out = torch.ops.cannonade.draw(torch.empty(3, 5, dtype=torch.int64, device="meta"), 7, kind)
        assert (out.shape, out.dtype, out.device.type) == ((3, 7), dtype, "meta")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 4, dtype=torch.int64), 1), r"coordinates must be \[N, 5\] int64, got \[2, 4\]"),
        ((torch.zeros(2, 5), 1), r"coordinates must be .* torch.float32"),
        ((torch.zeros(2, 5, dtype=torch.int64), -1), "got a count of -1"),
        ((torch.zeros(2, 5, dtype=torch.int64), 1, "gamma"), "kind must be one of words, uniform, normal, got 'gamma'"),
        (
            (torch.zeros(2, 5, dtype=torch.int64), 1, "words", "cuda"),
            "backend must be one of auto, triton, native, torch",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        draw(*arguments)


def test_triton_backend_needs_a_gpu():
    pytest.importorskip("triton")
    with pytest.raises(InputError, match='backend "triton" needs tensors on a GPU, got cpu; use "torch" or "auto"'):
        draw(random_coordinates(1), 1, backend="triton")


def test_imports_and_draws_where_triton_is_not_installed():
    code = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from cannonade.kernels.philox import draw\n"
        "coordinates = torch.zeros(1, 5, dtype=torch.int64)\n"
        "print(hex(int(draw(coordinates, 1))))\n"
        "try: draw(coordinates, 1, 'words', 'triton')\n"
        "except ValueError as error: print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [
        "0x6627e8d5",
        'backend "triton" needs Triton, which is for Linux only; use "torch" or "auto"',
    ]
