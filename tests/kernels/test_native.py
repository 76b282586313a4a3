"""Native code against the PyTorch references, and under the compiler's sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cannonade.draws import Draws, Phase
from cannonade.errors import InputError
from cannonade.kernels import native
from cannonade.kernels.backend import choose
from cannonade.kernels.philox import convert, draw
from cannonade.kernels.poisson import poisson

ROOT = Path(__file__).parents[2]
KINDS = ("words", "uniform", "normal")
LARGEST = 0xFFFFFFFF
# Rows and counts on both sides of a tile's 512 counters, of 4 lanes, of a pair, and of what one thread does alone (2^16).
SIZES = [(0, 5), (3, 0), (1, 1), (3, 2), (3, 7), (4097, 4), (5, 2047), (5, 2049), (2, 3 * 17 * 31), (3, 100_001)]


def coordinates(rows, seed=0):
    return torch.randint(0, 1 << 32, (rows, 5), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def threads():
    """`torch.set_num_threads`, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def mixed_rates(rows, count, dtype=torch.float32):
    """Rates of all sizes, whole and broken, zero among them."""
    generator = torch.Generator().manual_seed(count)
    rates = torch.rand(rows, count, dtype=torch.float64, generator=generator) ** 8 * 270_335
    rates[:, ::3] = rates[:, ::3].floor()
    return rates.to(dtype)


@pytest.mark.native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "count"), SIZES)
def test_draws_agree_with_reference(rows, count, kind):
    ours, reference = (draw(coordinates(rows), count, kind, backend) for backend in ("native", "torch"))
    assert ours.shape == reference.shape == (rows, count)
    assert ours.dtype == reference.dtype
    torch.testing.assert_close(ours, reference, rtol=0, atol=2e-6 if kind == "normal" else 0)


@pytest.mark.native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "count"), SIZES)
def test_poisson_numbers_are_those_of_the_reference(rows, count, dtype):
    rates = mixed_rates(rows, count, dtype)
    ours, reference = (poisson(coordinates(rows), rates, backend) for backend in ("native", "torch"))
    assert ours.dtype == reference.dtype
    assert torch.equal(ours, reference)


@pytest.mark.native
@pytest.mark.parametrize("top", [0.9, 127.0, 8191.0])
def test_poisson_numbers_of_small_rates_are_those_of_the_reference(top):
    rates = torch.rand(3, 30_000, generator=torch.Generator().manual_seed(0)) * top
    assert torch.equal(*(poisson(coordinates(3), rates, backend) for backend in ("native", "torch")))


@pytest.mark.native
def test_normals_follow_their_definition_over_all_radii_and_angles():
    high = torch.arange(0, 1 << 24, 7)
    for words in (torch.stack((high, high.flip(0)), dim=1), torch.stack((torch.zeros_like(high), high), dim=1)):
        unit, angle = (words[:, 0].double().numpy() + 1) * 2.0**-24, words[:, 1].float() * (2 * np.pi * 2.0**-24)
        radius = np.sqrt(-2 * np.log(unit))
        expected = np.stack((radius * np.cos(angle.double().numpy()), radius * np.sin(angle.double().numpy())), axis=1)
        ours = convert((words << 8).view(1, -1), "normal", "native").view(-1, 2).double().numpy()
        assert np.abs(ours - expected).max() < 1e-6
        small = (radius < 1e-2) & (radius > 0)
        assert np.abs(np.hypot(*ours[small].T) / radius[small] - 1).max(initial=0) < 5e-7, "log must be exact near 1"


@pytest.mark.native
def test_counts_of_threads_do_not_change_a_bit(threads):
    """At more counters than one thread takes alone."""
    calls = [lambda kind=kind: draw(coordinates(3), 100_001, kind, "native") for kind in KINDS]
    calls.append(lambda: poisson(coordinates(3), mixed_rates(3, 30_001), "native"))
    calls.append(lambda: convert(draw(coordinates(3), 100_004), "normal", "native"))
    for call in calls:
        threads(1)
        alone = call()
        threads(2)
        assert torch.equal(call(), alone)


@pytest.mark.native
def test_vector_width_does_not_change_a_bit():
    """An element's place in a tile decides whether it is computed in a vector or alone."""
    together = draw(coordinates(1), 2048, "normal", "native")
    for count in range(2, 140, 2):
        assert torch.equal(draw(coordinates(1), count, "normal", "native"), together[:, :count])


@pytest.mark.native
def test_any_strides_and_extreme_coordinates():
    transposed = coordinates(6).T.contiguous().T
    for rows in (transposed, torch.full((1, 5), LARGEST).expand(6, 5), coordinates(12)[::2]):
        for kind in KINDS:
            assert torch.equal(draw(rows, 11, kind, "native"), draw(rows.contiguous(), 11, kind, "native"))
        assert torch.equal(draw(rows, 11, "words", "native"), draw(rows, 11, "words", "torch"))
    rates = mixed_rates(11, 6).T
    assert torch.equal(poisson(transposed, rates, "native"), poisson(transposed, rates, "torch"))


@pytest.mark.native
def test_words_drawn_ahead_give_the_same_normals():
    draws = Draws(seed=0, phase=Phase.ATTACK, images=torch.arange(50), queries=torch.zeros(50, dtype=torch.int64))
    for shape in ((), (3,), (4,)):
        assert torch.equal(draws.ahead(2).site(1).normal(shape=shape), draws.site(1).normal(shape=shape))


@pytest.mark.native
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        *((torch.ops.cannonade.draw_native, (coordinates(3), 10, kind)) for kind in KINDS),
        (torch.ops.cannonade.convert_native, (coordinates(2)[:, :4],)),
        (torch.ops.cannonade.poisson_native, (coordinates(2), torch.ones(2, 3, dtype=torch.float64))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_operators_are_registered_correctly(operator, arguments):
    torch.library.opcheck(operator.default, arguments)


def test_choice_of_the_backend(monkeypatch):
    tensor = torch.zeros(1)
    monkeypatch.setattr(native, "available", lambda: True)
    assert choose("auto", tensor, native=True) == choose("native", tensor, native=True) == "native"
    assert choose("auto", tensor) == choose("torch", tensor, native=True) == "torch"
    assert choose("auto", tensor.to("meta"), native=True) == "torch"
    with pytest.raises(InputError, match='"native" has no code for this kernel and these dtypes'):
        choose("native", tensor)
    with pytest.raises(InputError, match='"native" needs tensors on a CPU, got meta'):
        choose("native", tensor.to("meta"), native=True)
    with pytest.raises(InputError, match='"native" has no code'):
        poisson(coordinates(1), torch.ones(1, 1, dtype=torch.float16), "native")


def test_pytorch_serves_where_nothing_was_built(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    expected = draw(coordinates(2), 9, "normal", "torch")
    assert torch.equal(draw(coordinates(2), 9, "normal"), expected)
    assert torch.equal(convert(draw(coordinates(2), 12), "normal")[:, :9], expected)
    assert poisson(coordinates(2), torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(InputError, match='"native" was not built'):
        draw(coordinates(2), 9, backend="native")


@pytest.mark.native
def test_what_cannot_be_called_is_named():
    with pytest.raises(InputError, match="has no draw_gamma; reinstall"):
        native.run("draw_gamma")
    with pytest.raises(InputError, match=r"contiguous CPU tensors, got strides \(1, 3\)"):
        native.run("draw_words", torch.zeros(3, 3).T)


@pytest.fixture(scope="module")
def sanitizers(tmp_path_factory):
    """The native sources as a library built with sanitizers, and the environment that lets Python load it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    runtimes = [_path(compiler, name) for name in ("libasan.so", "libubsan.so")]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip("g++ has no sanitizers here")
    library = tmp_path_factory.mktemp("sanitized") / "native.so"
    command = [compiler, "-std=c++17", "-O1", "-g", "-fopenmp", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command += ["-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", library]
    subprocess.run([*command, *(ROOT / "kernels" / "native").glob("*.cpp")], check=True)
    # Leaks need ptrace, which containers forbid.
    return library, os.environ | {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}


def _path(compiler, name):
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.mark.parametrize(
    "selection",
    [
        ("-m", "native", ROOT / "tests" / "kernels"),
        ("-k", "test_tiny_images", ROOT / "tests" / "transforms" / "test_contract.py"),
    ],
    ids=["kernels", "transforms"],
)
def test_native_code_is_clean_under_the_sanitizers(sanitizers, selection):
    """Tests of native code again (odd sizes, empty batches, several threads), and every transform on tiny images."""
    library, environment = sanitizers
    runner = Path(__file__).with_name("sanitized.py")
    command = [sys.executable, runner, library, *selection]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert " passed" in ran.stdout


def test_sanitizers_see_a_write_past_the_end(sanitizers):
    library, environment = sanitizers
    code = (
        "import ctypes, sys, torch; from cannonade.kernels import native; library = ctypes.CDLL(sys.argv[1]); "
        "native._library = lambda: library; "
        "native.run('draw_uniform', torch.empty(3, 8), torch.zeros(3, 5, dtype=torch.int64), 3, 9)"
    )
    command = [sys.executable, "-c", code, library]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
