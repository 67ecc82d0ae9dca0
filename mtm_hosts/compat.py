"""Today's libraries: puts back, on import, what the official code needs and newer libraries dropped."""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
import types
import warnings
from typing import Any

_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


def strtobool(value: str) -> bool:
    """distutils.util's reading of a boolean; ValueError for anything else."""
    word = value.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"strtobool: value must be one of {', '.join(_TRUE + _FALSE)}; got {value!r}.")
    return word in _TRUE


def _absent(name: str) -> bool:
    """A module in sys.modules counts, also another package's stand-in without a spec, at which find_spec fails."""
    return name not in sys.modules and importlib.util.find_spec(name) is None


def install() -> None:
    """Stand-ins for pkg_resources (gone from setuptools 82) and distutils (gone from Python 3.12), where missing."""
    if _absent("pkg_resources"):
        from packaging.version import parse

        _provide("pkg_resources", parse_version=parse)
    if _absent("distutils"):
        with contextlib.suppress(ImportError):
            importlib.import_module("setuptools")  # brings a distutils of its own, which it needs whole
    if _absent("distutils"):
        util = _provide("distutils.util", strtobool=strtobool)
        _provide("distutils", util=util, __path__=[])


def _provide(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name, "mtm_hosts.compat's stand-in.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    sys.modules[name] = module
    return module


def _sqrtm(a: Any, disp: bool = True) -> Any:
    """scipy.linalg.sqrtm with the argument that scipy 1.18 dropped: disp=False returns (root, estimated error)."""
    import numpy as np
    import scipy.linalg

    if "disp" in inspect.signature(scipy.linalg.sqrtm).parameters:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of that argument
            return scipy.linalg.sqrtm(a, disp=disp)
    root = scipy.linalg.sqrtm(a)
    if disp:
        return root
    return root, np.linalg.norm(root @ root - a) / np.linalg.norm(a)


# Shadows the name `scipy` where a metric takes the square root of a matrix.
scipy = types.SimpleNamespace(linalg=types.SimpleNamespace(sqrtm=_sqrtm))

install()
