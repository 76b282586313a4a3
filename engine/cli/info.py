"""`cannonade info`: what is installed, and which route the kernels take."""

from cannonade.cli.app import app, console


@app.command()
def info() -> None:
    """Versions, hardware, and whether native code, Triton and DALI are there."""
    from importlib.util import find_spec

    import torch

    from cannonade.bench.hardware import describe
    from cannonade.kernels import native
    from cannonade.kernels.backend import triton

    machine = describe()
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    built = native.available()
    on_gpu = (
        "Triton, and PyTorch where there is no kernel" if triton is not None else "PyTorch: Triton is not installed"
    )
    lines = {
        "versions": f"Python {machine['python']}, {versions}",
        "processor": f"{machine['processor']}, {machine['threads']} threads",
        "GPU": machine["gpu"] or "none",
        "on a CPU": "native code" if built else "PyTorch: no C++ compiler was found at installation",
        "on a GPU": on_gpu if torch.version.cuda else "none: this PyTorch was built without CUDA",
        "loader": "DALI" if find_spec("nvidia") and find_spec("nvidia.dali") else "torchvision",
    }
    for name, text in lines.items():
        console.print(f"{name:>10}  {text}", highlight=False, markup=False, soft_wrap=True)
