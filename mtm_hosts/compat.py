"""Today's libraries: restores, on import, what the official code needs and newer libraries have dropped.

Each function fixes one incompatibility where it exists, and leaves a library alone that still works.
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
    """distutils.util's reading of a boolean; ValueError for anything else."""
    word = value.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(f"strtobool: value must be one of {', '.join(_TRUE + _FALSE)}; got {value!r}.")
    return word in _TRUE


def copy_tree(src: Any, dst: Any) -> None:
    """distutils.dir_util's: copies a folder's content into another, which may exist."""
    shutil.copytree(src, dst, dirs_exist_ok=True)


def _absent(name: str) -> bool:
    """A module in sys.modules counts, also another package's stand-in without a spec, at which find_spec fails."""
    return name not in sys.modules and importlib.util.find_spec(name) is None


def provide_pkg_resources() -> None:
    """setuptools 82 no longer has pkg_resources; the hosts compare versions with it."""
    if _absent("pkg_resources"):
        # pytest calls the second one wherever it finds the module.
        unused = {"fixup_namespace_packages": lambda path_item, parent=None: None}
        provide("pkg_resources", parse_version=torch.torch_version.TorchVersion, **unused)


def provide_distutils() -> None:
    """Python 3.12 no longer has distutils; the hosts read booleans with it."""
    if _absent("distutils"):
        with contextlib.suppress(ImportError):
            importlib.import_module("setuptools")  # brings its own distutils, which it needs complete
    if _absent("distutils"):
        util = provide("distutils.util", strtobool=strtobool)
        dir_util = provide("distutils.dir_util", copy_tree=copy_tree)
        provide("distutils", util=util, dir_util=dir_util, __path__=[])


def provide(name: str, **members: Any) -> types.ModuleType:
    """Put a stand-in with these members where the module of that name would be imported from."""
    module = types.ModuleType(name, "mtm_hosts.compat's stand-in.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    sys.modules[name] = module
    return module


def let_samplers_take_the_data(sampler: Any = torch.utils.data.Sampler) -> None:
    """torch's Sampler no longer takes an argument; the hosts' InfiniteSampler passes it the data set."""
    if sampler.__init__ is object.__init__:
        sampler.__init__ = lambda self, data_source=None: None


def let_adam_mix_numbers(adam: Any = torch.optim.Adam) -> None:
    """Adam refuses betas of an integer and a float; the hosts pass [0, 0.99]."""
    build = adam.__init__

    @functools.wraps(build)
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        if "betas" in options:
            options["betas"] = tuple(float(b) if isinstance(b, int) else b for b in options["betas"])
        build(self, *arguments, **options)

    adam.__init__ = init


def operation(found: Any) -> Any:
    """The operation in what torch._C._jit_get_operation returned: from torch 1.12 on, overloads come with it."""
    return found[0] if isinstance(found, tuple) else found


def let_sqrtm_estimate_its_error() -> None:
    """SciPy 1.18's sqrtm no longer has the argument disp; the hosts' Fréchet distances pass disp=False."""
    if importlib.util.find_spec("scipy") is None:
        return
    import scipy.linalg

    scipy.linalg.sqrtm = _sqrtm_of(scipy.linalg.sqrtm)


def _sqrtm_of(sqrtm: Any) -> Any:
    """That sqrtm, with disp: disp=False returns (root, estimated error)."""
    import numpy as np

    knows_disp = "disp" in inspect.signature(sqrtm).parameters

    @functools.wraps(sqrtm)
    def root_of(A: Any, disp: bool = True, **options: Any) -> Any:
        if knows_disp:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of that argument
                return sqrtm(A, disp=disp, **options)
        root = sqrtm(A, **options)
        return root if disp else (root, np.linalg.norm(root @ root - A) / np.linalg.norm(A))

    return root_of


def one_gradient_per_input(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Decorator for an autograd function's backward that returns too few gradients: adds None for the remaining inputs.

    torch requires one gradient per input. Not a hook: the patch decorates EG3D's second-order convolution with it.
    """

    @functools.wraps(backward)
    def whole(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        found = backward(ctx, *grads)
        return (*found, *[None] * (len(ctx.needs_input_grad) - len(found)))

    return whole


def install() -> None:
    """Every hook above, once."""
    provide_pkg_resources()
    provide_distutils()
    let_samplers_take_the_data()
    let_adam_mix_numbers()
    let_sqrtm_estimate_its_error()


install()
