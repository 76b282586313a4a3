"""Random image transforms, one file per BaRT group, registered by name when this package is imported."""

from importlib import import_module
from pkgutil import iter_modules

from cannonade.transforms.base import REGISTRY, Gradient, Transform

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["REGISTRY", "Gradient", "Transform"]
