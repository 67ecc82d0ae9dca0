"""Layouts, and the matrix products, which use torch's matmul.

Columns are [rows, kh*kw*C]; a row is an output pixel. The weight is a matrix W [O, kh*kw*C/n] in the same order. Each
of the n weight groups maps its own C/n channels of every tap to its own O/n outputs.
"""

import ctypes

import torch
from torch import Tensor

from . import _build, _launch
from ._launch import SUFFIX

# Up to this many terms per sum, torch's matmul into a buffer is as fast as oneDNN's, which allocates new memory, and it
# avoids the page faults: a sixth of the time of a layer's forward and backward at 64 channels. At 512, torch's takes
# 1.4 times as long.
FEW_TERMS = 128


class TransposeParams(ctypes.Structure):
    """Mirror of TransposeParams in csrc/cuda_layout.h."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "rows", "columns")] + [
        (name, ctypes.c_void_p) for name in ("source", "target")
    ]


def transpose(t: Tensor, out: Tensor | None = None) -> Tensor:
    """Contiguous [B, n, m] -> contiguous [B, m, n]."""
    if out is None:
        out = t.new_empty(t.shape[0], t.shape[2], t.shape[1])
    if _launch.kernels_of(t.device) == "cuda":
        _launch.launch("transpose", t.dtype, t.device, TransposeParams(*t.shape, t.data_ptr(), out.data_ptr()))
        return out
    if t.device.type != "cpu" or t.dtype not in (torch.float32, torch.float64):
        return out.copy_(t.transpose(1, 2))
    pointers = ctypes.c_void_p(t.data_ptr()), ctypes.c_void_p(out.data_ptr())
    getattr(_build.load_cpu(), f"launch_transpose_{SUFFIX[t.dtype]}")(*pointers, *map(ctypes.c_int64, t.shape))
    return out


def to_rows(t: Tensor) -> Tensor:
    """[B, C, H, W] with any strides -> contiguous [B, H, W, C]: a copy unless it is channels-last already."""
    B, C, H, W = t.shape
    if t.is_contiguous() and min(C, H * W) > 1:
        return transpose(t.view(B, C, H * W)).view(B, H, W, C)
    return t.permute(0, 2, 3, 1).contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last if x is channels-last and not also contiguous; else contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def empty_result(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty result [B, C, H, W] in the dtype and memory format of `like`; fake kernels use it too."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like))


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Contiguous [B, H, W, C] -> [B, C, H, W] in the format of `empty_result`. Reuses the memory of `rows` if possible.

    Never a view: autograd refuses in-place changes to an op's result if it is a view.
    """
    B, H, W, C = rows.shape
    if memory_format(like) == torch.channels_last and rows.dtype == like.dtype:
        storage, strides = rows.untyped_storage(), (H * W * C, 1, W * C, C)
        return rows.new_empty(0).set_(storage, rows.storage_offset(), (B, C, H, W), strides)
    out = empty_result((B, C, H, W), like)
    if not out.is_contiguous():
        out.permute(0, 2, 3, 1).copy_(rows)
    elif rows.dtype == like.dtype:
        transpose(rows.view(B, H * W, C), out.view(B, C, H * W))
    else:
        out.view(B, C, H * W).copy_(transpose(rows.view(B, H * W, C)))
    return out


def weight_matrix(weight: Tensor) -> Tensor:
    """[O, C/n, kh, kw] -> W [O, kh*kw*C/n], in the columns' order."""
    return to_rows(weight).view(weight.shape[0], -1)


def weight_like(matrix: Tensor, weight: Tensor) -> Tensor:
    """W [O, kh*kw*C/n] -> [O, C/n, kh, kw] in the dtype and memory format of `weight`."""
    O, C, kh, kw = weight.shape
    return from_rows(matrix.view(O, kh, kw, C), weight)


def product(a: Tensor, b: Tensor, buffer: Tensor | None = None) -> Tensor:
    """a b^T for a [n, k] and b [m, k] with any strides, in b's dtype; written to `buffer` [n, m] if that is faster."""
    a = a.to(b.dtype)
    into = buffer if buffer is not None and buffer.dtype == b.dtype else None
    # oneDNN's matmul: for float32, torch's matmul uses another library, which is up to a quarter slower here.
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    few = into is not None and a.shape[1] <= FEW_TERMS
    if linear is None or a.dtype != torch.float32 or a.device.type != "cpu" or few:
        return torch.mm(a, b.t(), out=into)
    return linear(a, b, None, "none", [], "")


def _split_columns(columns: Tensor, taps: int, groups: int) -> Tensor:
    """[rows, taps*C] -> [groups, rows, taps*C/groups]."""
    rows, width = columns.shape[0], columns.shape[1] // (taps * groups)
    return columns.view(rows, taps, groups, width).permute(2, 0, 1, 3).reshape(groups, rows, taps * width)


def _split_outputs(y: Tensor, groups: int) -> Tensor:
    """[rows, O] -> [groups, rows, O/groups]."""
    return y.view(y.shape[0], groups, y.shape[1] // groups).transpose(0, 1)


def _split_weight(W: Tensor, groups: int) -> Tensor:
    """[O, k] -> [groups, O/groups, k]."""
    return W.view(groups, W.shape[0] // groups, W.shape[1])


def outputs(columns: Tensor, W: Tensor, taps: int, groups: int) -> Tensor:
    """columns W^T: contiguous [rows, O], in W's dtype."""
    if groups == 1:
        return product(columns, W)
    split = _split_columns(columns.to(W.dtype), taps, groups)
    y = torch.bmm(split, _split_weight(W, groups).transpose(1, 2))  # [groups, rows, O/groups]
    return y.transpose(0, 1).flatten(1).contiguous()  # with one output per group, flatten returns a view


def grad_columns(gy: Tensor, W: Tensor, buffer: Tensor, taps: int = 1, groups: int = 1) -> Tensor:
    """The columns' gradient gy W, contiguous [rows, kh*kw*C] in the dtype of `buffer`; in `buffer` or in new memory."""
    if groups == 1:
        return product(gy, W.t(), buffer).to(buffer.dtype)
    split = torch.bmm(_split_outputs(gy.to(W.dtype), groups), _split_weight(W, groups))  # [groups, rows, taps*width]
    return split.unflatten(2, (taps, split.shape[2] // taps)).permute(1, 2, 0, 3).flatten(1).to(buffer.dtype)


def add_weight_gradient(
    total: Tensor | None, gy: Tensor, columns: Tensor, dtype: torch.dtype, taps: int = 1, groups: int = 1
) -> Tensor:
    """total + gy^T columns, the gradient of W; in place; a `total` of None stands for zero."""
    if groups == 1:
        part = product(transpose(gy.unsqueeze(0))[0], columns.to(gy.dtype).t()).to(dtype)
    else:
        split = _split_columns(columns.to(gy.dtype), taps, groups)
        part = torch.bmm(_split_outputs(gy, groups).transpose(1, 2), split).flatten(0, 1).to(dtype)
    return part if total is None else total.add_(part)
