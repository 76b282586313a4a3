"""The wheel holds what the tree holds, and imports point one way."""

import ast
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cannonade.kernels import native

ROOT = Path(__file__).parents[1]
FOLDERS = {"engine": "cannonade", "kernels": "cannonade/kernels", "bench": "cannonade/bench"}

# A module may import from its own layer and from those below it.
LAYERS = [
    {"cannonade.errors", "cannonade.files"},
    {"cannonade.kernels"},
    {
        "cannonade.draws",
        "cannonade.checks",
        "cannonade.spec",
        "cannonade.proportions",
        "cannonade.spans",
        "cannonade.stopping",
        "cannonade.stopwatch",
    },
    {"cannonade.transforms", "cannonade.classifier", "cannonade.models", "cannonade.data"},
    {"cannonade.defenses", "cannonade.defended", "cannonade.chunking"},
    {"cannonade.polling"},
    {"cannonade.attacks", "cannonade.voting", "cannonade.certification"},
    {"cannonade.evaluation"},
    {"cannonade.experiments", "cannonade.training"},
    {"cannonade.integrations"},
    {"cannonade.bench"},
    {"cannonade.cli"},
]


def modules():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([*package.split("/"), *(part for part in parts if part != "__init__")]), path


def layer(module):
    for depth, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return depth
    return None


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if node.level == 0 else "." * node.level + (node.module or "")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_one_way(module, path):
    own = layer(module)
    if module == "cannonade":
        return
    assert own is not None, f"{module} is in no layer: add it to LAYERS"
    for name in imports(path):
        assert not name.startswith("."), f"{module} imports relatively"
        if name.startswith("cannonade."):
            other = layer(name)
            assert other is not None, f"{module} imports {name}, which is in no layer"
            assert other <= own, f"{module} imports upwards from {name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    copy = out / "checkout"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in tracked:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return copy, next(out.glob("*.whl"))


def test_wheel_holds_the_tree(wheel):
    copy, file = wheel
    packed = {name for name in zipfile.ZipFile(file).namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(copy / folder)}"
        for folder, package in FOLDERS.items()
        for path in (copy / folder).rglob("*")
        if path.suffix in (".py", ".jinja", ".typed")
    }
    library = {name for name in packed if name.startswith("cannonade/kernels/_native.")}
    assert packed - library == expected
    assert len(library) == native.available(), "built here exactly if it was built for the package under test"


def test_sdist_holds_the_native_sources(wheel):
    copy, file = wheel
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(file.parent), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(next(file.parent.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(copy)) for path in (copy / "kernels" / "native").iterdir() if path.is_file()}
    assert len(sources) > 3
    assert sources <= packed


def test_every_folder_of_modules_is_a_package():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path.parent
    assert not (ROOT / "engine" / "kernels").exists()
    assert not (ROOT / "engine" / "bench").exists()
