"""torch-fidelity's networks without the rest of torch-fidelity.

Its package imports torchvision, whose wheels fit one build of torch each; beside the CPU build that this project is
tested with there is none. The networks need one function of it, `normalize`. So their modules are imported with two
substitutes in sys.modules, for as long as the import takes: the package without its __init__, and a torchvision that
has `normalize` only. It is the same with and without torchvision, and a later `import torch_fidelity` is the real one.
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
    """The module of torch-fidelity of that name, such as "feature_extractor_inceptionv3". Raises UserError if the
    package is not installed."""
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
    """(images - mean) / std per channel of [..., C, H, W], as torchvision computes it: to the bit."""
    import torch

    images = images if inplace else images.clone()
    shape = (-1, 1, 1)
    mean_, std_ = (torch.as_tensor(x, dtype=images.dtype, device=images.device).view(shape) for x in (mean, std))
    return images.sub_(mean_).div_(std_)
