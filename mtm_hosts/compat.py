"""Support for current libraries: restores, on import, what the official code needs and newer versions have removed.

Each function fixes one incompatibility if it exists, and does not change a library that still works.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")


def strtobool(value: str) -> bool:
    """distutils.util.strtobool: the boolean that a string names. Raises ValueError for anything else."""
    word = value.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"strtobool: value must be one of {', '.join(_TRUE + _FALSE)}; got {value!r}.")
    return word in _TRUE


def copy_tree(src: Any, dst: Any) -> None:
    """distutils.dir_util.copy_tree: copies a folder's content into another, which may exist."""
    shutil.copytree(src, dst, dirs_exist_ok=True)


def _absent(name: str) -> bool:
    """False if it is in sys.modules, even as another package's stand-in without a spec, on which find_spec fails."""
    return name not in sys.modules and importlib.util.find_spec(name) is None


def provide_pkg_resources() -> None:
    """setuptools 82 removed pkg_resources, with which the hosts compare versions."""
    if _absent("pkg_resources"):
        # pytest calls fixup_namespace_packages if the module exists.
        unused = {"fixup_namespace_packages": lambda path_item, parent=None: None}
        provide("pkg_resources", parse_version=torch.torch_version.TorchVersion, **unused)


def provide_distutils() -> None:
    """Python 3.12 removed distutils, with which the hosts parse booleans."""
    if _absent("distutils"):
        with contextlib.suppress(ImportError):
            importlib.import_module("setuptools")  # installs its own distutils, and needs all of it
    if _absent("distutils"):
        util = provide("distutils.util", strtobool=strtobool)
        dir_util = provide("distutils.dir_util", copy_tree=copy_tree)
        provide("distutils", util=util, dir_util=dir_util, __path__=[])


def provide(name: str, **members: Any) -> types.ModuleType:
    """Register a stand-in module with these members under that name, so that imports find it."""
    module = types.ModuleType(name, "mtm_hosts.compat's stand-in.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    sys.modules[name] = module
    return module


def let_samplers_take_the_data(sampler: Any = torch.utils.data.Sampler) -> None:
    """torch's Sampler no longer takes an argument, but the hosts' InfiniteSampler passes it the data set."""
    if sampler.__init__ is object.__init__:
        sampler.__init__ = lambda self, data_source=None: None


def let_adam_mix_numbers(adam: Any = torch.optim.Adam) -> None:
    """Adam rejects betas that mix an integer and a float, but the hosts pass [0, 0.99]."""
    build = adam.__init__

    @functools.wraps(build)
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        if "betas" in options:
            options["betas"] = tuple(float(b) if isinstance(b, int) else b for b in options["betas"])
        build(self, *arguments, **options)

    adam.__init__ = init


def operation(found: Any) -> Any:
    """The operation from torch._C._jit_get_operation, which since torch 1.12 also returns the overloads."""
    return found[0] if isinstance(found, tuple) else found


def let_sqrtm_estimate_its_error() -> None:
    """SciPy 1.18 removed sqrtm's argument disp, but the hosts' Fréchet distances pass disp=False."""
    if importlib.util.find_spec("scipy") is None:
        return
    import scipy.linalg

    scipy.linalg.sqrtm = _sqrtm_of(scipy.linalg.sqrtm)


def _sqrtm_of(sqrtm: Any) -> Any:
    """Wraps `sqrtm` to accept disp; with disp=False it returns (root, estimated error)."""
    import numpy as np

    knows_disp = "disp" in inspect.signature(sqrtm).parameters

    @functools.wraps(sqrtm)
    def root_of(A: Any, disp: bool = True, **options: Any) -> Any:
        if knows_disp:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about disp
                return sqrtm(A, disp=disp, **options)
        root = sqrtm(A, **options)
        return root if disp else (root, np.linalg.norm(root @ root - A) / np.linalg.norm(A))

    return root_of


def one_gradient_per_input(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Decorator for an autograd function's backward that returns too few gradients: adds None for the other inputs.

    torch requires one gradient per input. Not called by install(): the patch decorates EG3D's second-order convolution.
    """

    @functools.wraps(backward)
    def whole(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        found = backward(ctx, *grads)
        return (*found, *[None] * (len(ctx.needs_input_grad) - len(found)))

    return whole


def install() -> None:
    """Calls every function above that fixes a library, once."""
    provide_pkg_resources()
    provide_distutils()
    let_samplers_take_the_data()
    let_adam_mix_numbers()
    let_sqrtm_estimate_its_error()


install()
