"""Builds cuda.cu for the CPU with cuda_on_host.h and routes the op's calls to it. The fixtures are in conftest.py."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mtm_ops import _build, _demodulation, _launch, _native

FLAGS = "-std=c++17 -O1 -fPIC -shared -U_FORTIFY_SOURCE -x c++".split()
HOST = """
#include "cuda_on_host.h"
#include "cuda.cu"
extern "C" int64_t count_atomics() { return atomics; }
extern "C" int64_t count_launches() { return launches; }
extern "C" int64_t count_meetings() { return progress; }
extern "C" void shuffle_by(int64_t s) { seed = unsigned(s); }
"""


def build(text: str, target: Path) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not on PATH")
    folders = [f"-I{folder}" for folder in (_build.CSRC, Path(__file__).parent)]
    done = subprocess.run(
        [compiler, *FLAGS, *folders, "-", "-o", str(target)], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


def build_host(target: Path) -> ctypes.CDLL:
    library = build(HOST, target)
    for name in ("atomics", "launches", "meetings"):
        getattr(library, f"count_{name}").restype = ctypes.c_int64
    assert library.sample_params_size() == ctypes.sizeof(_native.SampleParams)
    assert library.demodulate_params_size() == ctypes.sizeof(_demodulation.DemodulateParams)
    return library


def use_cuda_kernels(patch: pytest.MonkeyPatch, library: ctypes.CDLL) -> None:
    patch.setattr(_launch, "kernels_of", lambda device: "cuda")
    patch.setattr(_launch, "launch", lambda *args: launch(library, *args))


def launch(library: ctypes.CDLL, name: str, storage: torch.dtype, device: torch.device, params) -> None:
    function = getattr(library, f"launch_{name}_{_launch.SUFFIX[storage]}")
    function.restype = ctypes.c_char_p
    assert function(ctypes.byref(params), None) is None
