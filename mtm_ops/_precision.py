"""float32 matrix products with the precision that torch's convolutions have on CUDA.

By default torch lets cuDNN's convolutions use TF32 (a 10-bit mantissa), but not its matmuls. The op replaces a
convolution, so it follows the convolutions' switch: `torch.backends.cudnn.allow_tf32`, or its newer form
`torch.backends.cudnn.conv.fp32_precision`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MATMUL, _CONV = ("cuda", "matmul"), ("cuda", "conv")


@contextmanager
def precision_of_convolutions() -> Iterator[None]:
    """Within the context, float32 matmuls on CUDA use TF32 if and only if convolutions do.

    The switch is torch's and global to the process: it also affects matmuls that other threads start meanwhile.
    """
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    wanted = get(*_CONV) == "tf32"
    before = get(*_MATMUL)
    if wanted == (before == "tf32"):
        yield
        return
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switch was set and contradicts the older one, which torch then refuses to return
        legacy = "highest" if before == "tf32" else "high"
    # Sets both the older and the newer switch, so that torch finds no contradiction in either.
    torch._C._set_cublas_allow_tf32(wanted)
    try:
        yield
    finally:
        if legacy == "medium":  # bfloat16 on CPUs, and TF32 on CUDA
            torch.set_float32_matmul_precision(legacy)
        else:
            torch._C._set_cublas_allow_tf32(legacy == "high")
        put(*_MATMUL, "none")  # an inherited setting stays inherited
        if get(*_MATMUL) != before:
            put(*_MATMUL, before)


@contextmanager
def convolutions_in_tf32() -> Iterator[None]:
    """Within the context, float32 convolutions on CUDA use TF32, whatever the switch says. This affects all threads."""
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    before = get(*_CONV)
    if before == "tf32":
        yield
        return
    put(*_CONV, "tf32")  # only the newer switch, which convolutions read
    try:
        yield
    finally:
        put(*_CONV, "none")
        if get(*_CONV) != before:
            put(*_CONV, before)
