"""Maps the top-level folders to import names and builds the native library; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = {"cannonade": "engine", "cannonade.kernels": "kernels", "cannonade.bench": "bench"}
NATIVE = Path("kernels/native")
# No fused multiply-adds, so that every CPU gives the same bits; errno and floating-point traps only keep loops scalar.
EXACT = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{sub}" for sub in find_packages(folder)))
    ],
    ext_modules=[
        # Loaded with ctypes. Without a compiler there is none, and PyTorch does its work.
        Extension(
            "cannonade.kernels._native",
            sources=sorted(map(str, NATIVE.glob("*.cpp"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
            language="c++",
            extra_compile_args=["-std=c++17", "-O3", "-fopenmp", *EXACT],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ],
)
