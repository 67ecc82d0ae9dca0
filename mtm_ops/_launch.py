"""Which kernels a device has, and how one of them is started."""

import ctypes
import functools
from collections.abc import Callable

import torch

from . import _build

SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}


def kernels_of(device: torch.device) -> str:
    """Which kernels run on a device: "cpu" or "cuda"."""
    return device.type


def launch(name: str, storage: torch.dtype, device: torch.device, params: ctypes.Structure) -> None:
    """Runs a kernel: on the CPU, or on the device's current stream. Raises RuntimeError if CUDA refuses it."""
    function = f"launch_{name}_{SUFFIX[storage]}"
    if device.type == "cpu":
        getattr(_build.load_cpu(), function)(ctypes.byref(params))
        return
    current = torch.cuda.current_device()
    index = current if device.index is None else device.index
    kernel = _cuda_kernel(function, index)
    if index == current:
        error = kernel(ctypes.byref(params), torch._C._cuda_getCurrentRawStream(index))
    else:
        with torch.cuda.device(index):
            error = kernel(ctypes.byref(params), torch._C._cuda_getCurrentRawStream(index))
    if error is not None:
        raise RuntimeError(f"mtm_ops: the CUDA kernel {function} did not start on {device}: {error.decode()}.")


@functools.cache
def _cuda_kernel(function: str, index: int) -> Callable[..., bytes | None]:
    """The library's function for that device; cached, because for small layers the calls cost more than the kernels."""
    kernel = getattr(_build.load_cuda(torch.cuda.get_device_capability(index)), function)
    kernel.restype, kernel.argtypes = ctypes.c_char_p, (ctypes.c_void_p, ctypes.c_void_p)
    return kernel
