"""Imports torch-fidelity's networks without the rest of torch-fidelity.

The package imports torchvision. A torchvision wheel fits only one build of torch, and there is none for the CPU build
with which this project is tested. The networks need only torchvision's `normalize`. So their modules are imported with
two temporary substitutes in sys.modules: the package without its __init__, and a torchvision with `normalize` only.
The result is the same with and without torchvision, and a later `import torch_fidelity` imports the real package.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import threading
import types
from typing import Any

from experiments.files import UserError

PACKAGE = "torch_fidelity"
_lock = threading.Lock()


@functools.cache
def networks(module: str) -> Any:
    """torch-fidelity's module of that name, such as "feature_extractor_inceptionv3". Raises UserError if the package is
    not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise UserError(
            "metrics: torch-fidelity must be installed; got none. Run: make setup, or in your own environment: "
            "pip install --no-deps -r requirements-metrics.txt"
        )
    bare = types.ModuleType(PACKAGE)
    bare.__path__ = list(spec.submodule_search_locations)
    with _lock:
        saved = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_substituted(name)}
        sys.modules.update({PACKAGE: bare, **_torchvision()})
        try:
            return importlib.import_module(f"{PACKAGE}.{module}")
        finally:
            for name in [name for name in sys.modules if _is_substituted(name)]:
                del sys.modules[name]
            sys.modules.update(saved)


def version() -> str:
    return importlib.metadata.version("torch-fidelity")


def _is_substituted(name: str) -> bool:
    return name.split(".")[0] in (PACKAGE, "torchvision")


def _torchvision() -> dict[str, types.ModuleType]:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    package, transforms, functional = (types.ModuleType(name, "experiments.metrics.fidelity's") for name in names)
    vars(package)["transforms"], vars(transforms)["functional"] = transforms, functional
    vars(functional)["normalize"] = normalize
    return dict(zip(names, (package, transforms, functional), strict=True))


def normalize(images: Any, mean: tuple[float, ...], std: tuple[float, ...], inplace: bool = False) -> Any:
    """(images - mean) / std per channel of [..., C, H, W], bit-identical to torchvision's."""
    import torch

    images = images if inplace else images.clone()
    shape = (-1, 1, 1)
    mean_, std_ = (torch.as_tensor(x, dtype=images.dtype, device=images.device).view(shape) for x in (mean, std))
    return images.sub_(mean_).div_(std_)
