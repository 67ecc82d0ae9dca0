"""Drives the native sampling kernels: layouts, chunks, and the matrix products, which are torch's.

With columns P = S(x, offset, mask) [rows, kh*kw*C] and the weight as a matrix W [O, kh*kw*C]:

    forward           y = P W^T
    backward          g = grad_y W;  grad_W = grad_y^T P;  (grad_x, grad_offset, grad_mask) = S'(g)
    double backward   t = dP along the cotangents;  to grad_y: t W^T + P gg_W^T;  to W: grad_y^T t;
                      to x, offset, mask: S''(g) + S'(grad_y gg_W)

Columns exist for a chunk of rows (output pixels) at a time, in one buffer: g goes in, and the kernel leaves the
columns (or t) in its place. So neither direction ever holds them whole, and they stay in the cache.
"""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from . import _build
from .reference import accumulation_dtype, output_size

CHUNK_BYTES = 8 << 20  # columns per chunk: large enough for an efficient product, small enough for the last cache
TALL = 4  # rows per output channel from which the products prefer a transposed weight
SLICE_CHANNELS = 128  # width of the channel slices that a gradient kernel's threads own

_SIZES = (
    "C H W Ho Wo kh kw stride_y stride_x padding_y padding_x dilation_y dilation_x groups row_begin row_end slices"
).split()
_TENSORS = "x offset mask columns grad_x grad_offset grad_mask gg_x gg_offset gg_mask dots".split()


class SampleParams(ctypes.Structure):
    """Mirror of SampleParams in csrc/sampling.h."""

    _fields_ = [(name, ctypes.c_int64) for name in _SIZES] + [(name, ctypes.c_void_p) for name in _TENSORS]


class Sampling:
    """One call's sampling: x [B, C, H, W], offset, mask and the convolution's geometry, ready for the kernels."""

    def __init__(self, x: Tensor, offset: Tensor, mask: Tensor | None, kernel_size, stride, padding, dilation) -> None:
        B, self.C, H, W = x.shape
        self.taps = kernel_size[0] * kernel_size[1]
        size = output_size((H, W), kernel_size, stride, padding, dilation)
        self.groups = offset.shape[1] // (2 * self.taps)
        self.rows = B * size[0] * size[1]
        self.slices = max(1, self.C // self.groups // SLICE_CHANNELS)
        self.dtype = accumulation_dtype(x.dtype)
        self.device = x.device
        self.chunk_rows = max(64, CHUNK_BYTES // (self.taps * self.C * self.dtype.itemsize))
        numbers = (self.C, H, W, *size, *kernel_size, *stride, *padding, *dilation, self.groups, 0, 0, self.slices)
        self.params = SampleParams(*numbers)
        self.tensors: dict[str, Tensor] = {}  # what the params point to, kept alive
        self.bind(x=to_rows(x.to(self.dtype)), offset=offset.to(self.dtype).contiguous())
        if mask is not None:
            self.bind(mask=mask.to(self.dtype).contiguous())

    def bind(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.tensors[name] = tensor
            setattr(self.params, name, tensor.data_ptr())

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Row ranges [begin, end) that together cover the call."""
        for begin in range(0, self.rows, self.chunk_rows):
            yield begin, min(begin + self.chunk_rows, self.rows)

    def new_columns(self) -> Tensor:
        """A buffer for the columns of one chunk."""
        return torch.empty(min(self.rows, self.chunk_rows), self.taps * self.C, dtype=self.dtype, device=self.device)

    def bind_gradients(self) -> None:
        """Zeroed sums for the gradients that backward and double_backward add to."""
        names = ["x", "offset", *(["mask"] if "mask" in self.tensors else [])]
        self.bind(**{f"grad_{name}": torch.zeros_like(self.tensors[name]) for name in names})

    def bind_cotangents(self, gg_x: Tensor | None, gg_offset: Tensor | None, gg_mask: Tensor | None) -> None:
        """Cotangents of the gradients, shaped as x, offset and mask; None stands for zero."""
        given = {"x": None if gg_x is None else to_rows(gg_x), "offset": gg_offset, "mask": gg_mask}
        for name in given.keys() & self.tensors.keys():
            gg, like = given[name], self.tensors[name]
            self.bind(**{f"gg_{name}": torch.zeros_like(like) if gg is None else gg.to(self.dtype).contiguous()})

    def gather(self, begin: int, end: int, columns: Tensor) -> Tensor:
        """Fills and returns columns [rows, taps*C] with those of rows [begin, end)."""
        return self._launch("gather", begin, end, columns)

    def backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the gradients for g [rows, taps*C], the columns' gradient; returns the columns, in g's place."""
        self._bind_dots(end - begin, 4)
        return self._launch("backward", begin, end, g)

    def double_backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the second-order gradients for g; returns the gradient to g, in its place."""
        self._bind_dots(end - begin, 8)
        return self._launch("double_backward", begin, end, g)

    def _bind_dots(self, rows: int, per_tap: int) -> None:
        size = rows * self.taps * self.groups * self.slices * per_tap
        self.bind(dots=torch.empty(size, dtype=self.dtype, device=self.device))

    def _launch(self, name: str, begin: int, end: int, columns: Tensor) -> Tensor:
        self.params.row_begin, self.params.row_end = begin, end
        self.bind(columns=columns)
        _kernel(name, self.dtype)(ctypes.byref(self.params))
        return columns


def _kernel(name: str, dtype: torch.dtype):
    return getattr(_build.load_cpu(), f"launch_{name}_{'f64' if dtype == torch.float64 else 'f32'}")


def transpose(t: Tensor) -> Tensor:
    """Contiguous [B, n, m] -> contiguous [B, m, n]."""
    if t.dtype not in (torch.float32, torch.float64):
        return t.transpose(1, 2).contiguous()
    out = t.new_empty(t.shape[0], t.shape[2], t.shape[1])
    pointers = ctypes.c_void_p(t.data_ptr()), ctypes.c_void_p(out.data_ptr())
    _kernel("transpose", t.dtype)(*pointers, *map(ctypes.c_int64, t.shape))
    return out


def to_rows(t: Tensor) -> Tensor:
    """[B, C, H, W] in any strides -> contiguous [B, H, W, C]: a copy unless it is channels-last already."""
    B, C, H, W = t.shape
    if t.is_contiguous() and min(C, H * W) > 1:
        return transpose(t.view(B, C, H * W)).view(B, H, W, C)
    return t.permute(0, 2, 3, 1).contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where x is, and only is, channels-last; else contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Contiguous [B, H, W, C] -> [B, C, H, W] in the dtype and memory format of `like`."""
    B, H, W, C = rows.shape
    if memory_format(like) == torch.contiguous_format:
        return transpose(rows.view(B, H * W, C)).view(B, C, H, W).to(like.dtype)
    return rows.permute(0, 3, 1, 2).to(like.dtype).contiguous(memory_format=memory_format(like))


def weight_matrix(weight: Tensor) -> Tensor:
    """[O, C, kh, kw] -> [O, kh*kw*C], in the columns' order."""
    return to_rows(weight).view(weight.shape[0], -1)


def weight_like(matrix: Tensor, weight: Tensor) -> Tensor:
    """[O, kh*kw*C] -> [O, C, kh, kw] in the dtype and memory format of `weight`."""
    O, C, kh, kw = weight.shape
    return from_rows(matrix.view(O, kh, kw, C), weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for a [n, k] and b [m, k], in b's dtype."""
    a = a.to(b.dtype)
    # oneDNN's product, up to a quarter faster than the one that matmul takes for float32 (measured: docs/results.md).
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if a.dtype == torch.float32 else None
    return a @ b.t() if linear is None or a.device.type != "cpu" else linear(a, b, None, "none", [], "")


class Products:
    """The products with one weight, each laid out the way that is fastest for the number of rows."""

    def __init__(self, weight: Tensor, rows: int) -> None:
        self.W = weight_matrix(weight)
        # Transposing the weight pays for itself from here on (measured: docs/results.md).
        self.tall = rows >= TALL * self.W.shape[0]
        self.Wt = transpose(self.W.unsqueeze(0))[0] if self.tall else None

    def grad_columns(self, gy: Tensor, dtype: torch.dtype) -> Tensor:
        """gy W, contiguous [rows, kh*kw*C] in `dtype`."""
        return (gy @ self.W if self.Wt is None else product(gy, self.Wt)).to(dtype)

    def zero_weight_sum(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros_like(self.W.t() if self.tall else self.W, dtype=dtype, memory_format=torch.contiguous_format)

    def add_weight_gradient(self, total: Tensor, gy: Tensor, columns: Tensor) -> None:
        """total += the weight gradient gy^T columns, in the layout of zero_weight_sum."""
        columns = columns.to(gy.dtype)
        a, b = (columns, gy) if self.tall else (gy, columns)
        if total.dtype == gy.dtype:
            total.addmm_(a.t(), b)
        else:
            total += a.t() @ b

    def weight_gradient(self, total: Tensor, weight: Tensor) -> Tensor:
        return weight_like(transpose(total.unsqueeze(0))[0] if self.tall else total, weight)


def forward(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation) -> Tensor:
    """y [B, O, Ho, Wo] in x's dtype and memory format; arguments as `reference.deform_conv2d`."""
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    W = weight_matrix(weight)
    y = torch.empty(s.rows, W.shape[0], dtype=x.dtype, device=x.device)
    buffer = s.new_columns()
    for begin, end in s.chunks():
        y[begin:end] = product(s.gather(begin, end, buffer[: end - begin]), W)
    return from_rows(y.view(x.shape[0], *offset.shape[2:], -1), x)


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, weight, offset, mask); an empty tensor where `needs` is False or there is no mask."""
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    s.bind_gradients()
    products = Products(weight, s.rows)
    gy = to_rows(grad_y).view(s.rows, -1)
    to_W = products.zero_weight_sum(s.dtype) if needs[1] else None
    for begin, end in s.chunks():
        columns = s.backward(begin, end, products.grad_columns(gy[begin:end], s.dtype))
        if to_W is not None:
            products.add_weight_gradient(to_W, gy[begin:end], columns)
    to_weight = None if to_W is None else products.weight_gradient(to_W, weight)
    return _results(s, needs, x, to_weight)


def double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `backward`'s results with respect to (grad_y, x, weight, offset, mask).

    gg_* are the cotangents of those results; None stands for zero, and for gg_weight saves half of the work, as in
    path-length regularisation, which differentiates by the latents alone.
    """
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    s.bind_gradients()
    s.bind_cotangents(gg_x, gg_offset, gg_mask)
    products = Products(weight, s.rows)
    gg_products = None if gg_weight is None else Products(gg_weight, s.rows)
    gy = to_rows(grad_y).view(s.rows, -1)
    to_gy = torch.empty_like(gy)
    to_W = products.zero_weight_sum(s.dtype)
    for begin, end in s.chunks():
        gy_chunk = gy[begin:end]
        tangent = s.double_backward(begin, end, products.grad_columns(gy_chunk, s.dtype))
        products.add_weight_gradient(to_W, gy_chunk, tangent)
        to_gy[begin:end] = product(tangent, products.W)
        if gg_products is not None:
            columns = s.backward(begin, end, gg_products.grad_columns(gy_chunk, s.dtype))
            to_gy[begin:end] += product(columns, gg_products.W)
    to_grad_y = from_rows(to_gy.view(x.shape[0], *offset.shape[2:], -1), grad_y)
    return to_grad_y, *_results(s, (True,) * 4, x, products.weight_gradient(to_W, weight))


def _results(s: Sampling, needs, x: Tensor, to_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    empty = s.tensors["offset"].new_empty(0)
    return (
        from_rows(s.tensors["grad_x"], x) if needs[0] else empty.to(x.dtype),
        empty.to(x.dtype) if to_weight is None else to_weight,
        s.tensors["grad_offset"] if needs[2] else empty,
        s.tensors["grad_mask"] if needs[3] and "mask" in s.tensors else empty,
    )
