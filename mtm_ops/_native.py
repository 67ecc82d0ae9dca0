"""Drives the native sampling kernels: layouts, chunks, and the matrix products, which are torch's.

With columns P = S(x, offset, mask) [rows, kh*kw*C] and the weight as a matrix W [O, kh*kw*C]:

    forward           y = P W^T
    backward          g = grad_y W;  grad_W = grad_y^T P;  (grad_x, grad_offset, grad_mask) = S'(g)
    double backward   t = dP along the cotangents;  to grad_y: t W^T + P gg_W^T;  to W: grad_y^T t;
                      to x, offset, mask: S''(g) + S'(grad_y gg_W)

Columns exist for a chunk of rows (output pixels) at a time, in one buffer: g goes in, and the kernel leaves the
columns (or t) in its place. So neither direction ever holds them whole, and they stay in the cache.

The CPU kernels work on float32 and float64, and half types are widened for them; the CUDA kernels read and write half
types themselves. Both sum in the accumulation dtype.
"""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from . import _build
from .reference import accumulation_dtype, output_size

# Columns per chunk at most: rows enough for an efficient product, few enough bytes for the last cache. On a CPU, at 512
# channels, half of this was up to a tenth slower, and twice as much no faster.
CHUNK_BYTES = {"cpu": 10 << 20, "cuda": 32 << 20}  # CUDA: chosen for an L2 cache of 40 to 50 MB, not measured yet
CHUNK_ROWS = {"cpu": 2048, "cuda": 1 << 31}

_SIZES = (
    "C H W Ho Wo kh kw stride_y stride_x padding_y padding_x dilation_y dilation_x groups "
    "row_begin row_end deterministic channels_first"
).split()
_TENSORS = "x offset mask columns grad_x grad_offset grad_mask gg_x gg_offset gg_mask".split()


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
        self.dtype = accumulation_dtype(x.dtype)
        self.storage = x.dtype if x.is_cuda else self.dtype  # of x, gg_x and the columns
        self.device = x.device
        row_bytes, kind = self.taps * self.C * self.storage.itemsize, x.device.type
        most_rows = min(CHUNK_ROWS[kind], max(64, CHUNK_BYTES[kind] // row_bytes))
        chunks = max(1, -(-self.rows // most_rows))
        self.chunk_rows = max(
            1, -(-self.rows // chunks)
        )  # equal, as far as that goes: a short one costs more than its share
        deterministic = int(torch.are_deterministic_algorithms_enabled())
        geometry = (*size, *kernel_size, *stride, *padding, *dilation)
        self.params = SampleParams(self.C, H, W, *geometry, self.groups, 0, 0, deterministic, 0)
        self.tensors: dict[str, Tensor] = {}  # what the params point to, kept alive
        self.bind(x=to_rows(x.to(self.storage)), offset=offset.to(self.dtype).contiguous())
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
        rows = min(self.rows, self.chunk_rows)
        return torch.empty(rows, self.taps * self.C, dtype=self.storage, device=self.device)

    def bind_gradients(self) -> None:
        """Zeroed sums for the gradients that backward and double_backward add to."""
        for name in self.tensors.keys() & {"x", "offset", "mask"}:
            self.bind(**{f"grad_{name}": torch.zeros_like(self.tensors[name], dtype=self.dtype)})

    def bind_cotangents(self, gg_x: Tensor | None, gg_offset: Tensor | None, gg_mask: Tensor | None) -> None:
        """Cotangents of the gradients, shaped as x, offset and mask; None stands for zero."""
        given = {"x": None if gg_x is None else to_rows(gg_x), "offset": gg_offset, "mask": gg_mask}
        for name in given.keys() & self.tensors.keys():
            gg, like = given[name], self.tensors[name]
            self.bind(**{f"gg_{name}": torch.zeros_like(like) if gg is None else gg.to(like.dtype).contiguous()})

    def gather(self, begin: int, end: int, columns: Tensor) -> Tensor:
        """Fills and returns columns [rows, taps*C] with those of rows [begin, end)."""
        return self._launch("gather", begin, end, columns)

    def backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the gradients for g [rows, taps*C], the columns' gradient; returns the columns, in g's place."""
        return self._launch("backward", begin, end, g)

    def double_backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the second-order gradients for g; returns the gradient to g, in its place."""
        return self._launch("double_backward", begin, end, g)

    def _launch(self, name: str, begin: int, end: int, columns: Tensor) -> Tensor:
        self.params.row_begin, self.params.row_end = begin, end
        self.bind(columns=columns)
        launch(name, self.storage, self.device, self.params)
        return columns


_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}


def launch(name: str, storage: torch.dtype, device: torch.device, params: SampleParams) -> None:
    """Runs a sampling kernel: on the CPU, or on the device's current stream. Raises RuntimeError if CUDA refuses it."""
    function = f"launch_{name}_{_SUFFIX[storage]}"
    if device.type == "cpu":
        getattr(_build.load_cpu(), function)(ctypes.byref(params))
        return
    with torch.cuda.device(device):
        kernel = getattr(_build.load_cuda(torch.cuda.get_device_capability(device)), function)
        kernel.restype = ctypes.c_char_p
        error = kernel(ctypes.byref(params), ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream))
    if error is not None:
        raise RuntimeError(f"mtm_ops: the CUDA kernel {function} did not start on {device}: {error.decode()}.")


def transpose(t: Tensor) -> Tensor:
    """Contiguous [B, n, m] -> contiguous [B, m, n]."""
    if t.device.type != "cpu" or t.dtype not in (torch.float32, torch.float64):
        return t.transpose(1, 2).contiguous()
    out = t.new_empty(t.shape[0], t.shape[2], t.shape[1])
    pointers = ctypes.c_void_p(t.data_ptr()), ctypes.c_void_p(out.data_ptr())
    getattr(_build.load_cpu(), f"launch_transpose_{_SUFFIX[t.dtype]}")(*pointers, *map(ctypes.c_int64, t.shape))
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
    if rows.device.type == "cpu" and memory_format(like) == torch.contiguous_format:
        return transpose(rows.view(B, H * W, C)).view(B, C, H, W).to(like.dtype)
    return rows.permute(0, 3, 1, 2).to(like.dtype, memory_format=memory_format(like))


def weight_matrix(weight: Tensor) -> Tensor:
    """[O, C, kh, kw] -> [O, kh*kw*C], in the columns' order."""
    return to_rows(weight).view(weight.shape[0], -1)


def weight_like(matrix: Tensor, weight: Tensor) -> Tensor:
    """[O, kh*kw*C] -> [O, C, kh, kw] in the dtype and memory format of `weight`."""
    O, C, kh, kw = weight.shape
    return from_rows(matrix.view(O, kh, kw, C), weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for a [n, k] and b [m, k] of any strides, in b's dtype."""
    a = a.to(b.dtype)
    # oneDNN's product: for float32, torch's matmul takes another library's, which is up to a quarter slower here.
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or a.dtype != torch.float32 or a.device.type != "cpu":
        return a @ b.t()
    return linear(a, b, None, "none", [], "")


def grad_columns(gy: Tensor, W: Tensor, dtype: torch.dtype) -> Tensor:
    """The columns' gradient gy W, contiguous [rows, kh*kw*C] in `dtype`."""
    return product(gy, W.t()).to(dtype)


def add_weight_gradient(total: Tensor | None, gy: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """total + gy^T columns, the gradient of the weight as a matrix; in place, None standing for zero."""
    part = product(transpose(gy.unsqueeze(0))[0], columns.to(gy.dtype).t()).to(dtype)
    return part if total is None else total.add_(part)


def forward(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation) -> Tensor:
    """y [B, O, Ho, Wo] in x's dtype and memory format; arguments as `reference.deform_conv2d`."""
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    # For few rows, the columns take the weight's order: to bring the weight into theirs would cost more.
    s.params.channels_first = s.device.type == "cpu" and s.rows <= weight.shape[0] and weight.is_contiguous()
    W = weight.view(weight.shape[0], -1) if s.params.channels_first else weight_matrix(weight)
    buffer = s.new_columns()
    if s.rows == s.chunk_rows:
        y = product(s.gather(0, s.rows, buffer), W).to(x.dtype)  # one chunk: no copy into a whole
    else:
        y = torch.empty(s.rows, W.shape[0], dtype=x.dtype, device=x.device)
        for begin, end in s.chunks():
            y[begin:end] = product(s.gather(begin, end, buffer[: end - begin]), W)
    return from_rows(y.view(x.shape[0], *offset.shape[2:], W.shape[0]), x)


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, weight, offset, mask); an empty tensor where `needs` is False or there is no mask."""
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    s.bind_gradients()
    W = weight_matrix(weight)
    gy = to_rows(grad_y).view(s.rows, W.shape[0])
    to_W = None
    for begin, end in s.chunks():
        columns = s.backward(begin, end, grad_columns(gy[begin:end], W, s.storage))
        if needs[1]:
            to_W = add_weight_gradient(to_W, gy[begin:end], columns, s.dtype)
    return _results(s, needs, x, weight, to_W)


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
    W = weight_matrix(weight)
    gg_W = None if gg_weight is None else weight_matrix(gg_weight)
    gy = to_rows(grad_y).view(s.rows, W.shape[0])
    to_gy = torch.empty_like(gy)
    to_W = None
    for begin, end in s.chunks():
        gy_chunk = gy[begin:end]
        tangent = s.double_backward(begin, end, grad_columns(gy_chunk, W, s.storage))
        to_W = add_weight_gradient(to_W, gy_chunk, tangent, s.dtype)
        to_gy[begin:end] = product(tangent, W)
        if gg_W is not None:
            columns = s.backward(begin, end, grad_columns(gy_chunk, gg_W, s.storage))
            to_gy[begin:end] += product(columns, gg_W)
    to_grad_y = from_rows(to_gy.view(x.shape[0], *offset.shape[2:], W.shape[0]), grad_y)
    return to_grad_y, *_results(s, (True,) * 4, x, weight, to_W)


def _results(
    s: Sampling, needs, x: Tensor, weight: Tensor, to_W: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, offset, mask), empty where they are not needed."""
    weight_gradient = torch.zeros_like(weight) if to_W is None else weight_like(to_W, weight)  # None: no rows at all
    return (
        from_rows(s.tensors["grad_x"], x) if needs[0] else x.new_empty(0),
        weight_gradient if needs[1] else weight.new_empty(0),
        s.tensors["grad_offset"] if needs[2] else s.tensors["offset"].new_empty(0),
        s.tensors["grad_mask"] if needs[3] and "mask" in s.tensors else s.tensors["offset"].new_empty(0),
    )
