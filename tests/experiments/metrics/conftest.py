"""Fixtures for the tests of metrics: stand-in weights for every network, private folders, other tools' modules."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.stand_ins import make_stand_ins


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    make_stand_ins(folder, small=True)
    return folder


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests away from the user's weights and cache."""
    monkeypatch.setenv("MTM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MTM_WEIGHTS", str(tmp_path / "no-weights"))


@pytest.fixture(scope="session")
def clean_fid() -> Any:
    """clean-fid's module `fid` without its networks, which need torchvision. The tests use only its distances."""
    return _import_without("cleanfid.fid", "cleanfid.features", "cleanfid.utils")


@pytest.fixture(scope="session")
def fidelity() -> Callable[[str], Any]:
    """Imports a module of torch-fidelity's metrics without its image readers, which need torchvision."""
    return lambda module: _import_without(f"torch_fidelity.{module}", "torch_fidelity.utils")


def _import_without(name: str, *others: str) -> Any:
    """Import the module `name` without running its package's __init__ and without `others`."""
    package = name.partition(".")[0]
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} must be installed: make setup"
    with pytest.MonkeyPatch.context() as patch:
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
            patch.delitem(sys.modules, loaded)
        bare = types.ModuleType(package)
        bare.__path__ = list(spec.submodule_search_locations or [])
        patch.setitem(sys.modules, package, bare)
        for other in others:
            empty = types.ModuleType(other)
            vars(empty).update(__getattr__=lambda _: None, __all__=[])  # everything imported from it is None
            patch.setitem(sys.modules, other, empty)
        module = importlib.import_module(name)
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
            patch.delitem(sys.modules, loaded)
    return module
