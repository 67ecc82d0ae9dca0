"""Drives the native sampling kernels, in chunks, between the matrix products (_matrix.py).

With columns P = S(x, offset, mask) [rows, kh*kw*C] and the weight as a matrix W [O, kh*kw*C], one weight group:

    forward           y = P W^T
    backward          g = grad_y W;  grad_W = grad_y^T P;  (grad_x, grad_offset, grad_mask) = S'(g)
    double backward   t = dP along the cotangents;  to grad_y: t W^T + P gg_W^T;  to W: grad_y^T t;
                      to x, offset, mask: S''(g) + S'(grad_y gg_W)

Columns exist for one chunk of rows (output pixels) at a time, in one buffer: the kernel reads g from it and overwrites
it with the columns (or t). So neither direction ever stores all columns, and the chunk stays in the cache.

The CPU kernels work on float32 and float64; half types are widened for them. The CUDA kernels read and write half types
themselves. Both sum in the accumulation dtype.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _launch
from ._chunks import Rows
from ._matrix import empty_result, from_rows, to_rows, weight_like, weight_matrix
from ._products import CudaProducts, Products
from .reference import accumulation_dtype, output_size

_SIZES = (
    "C H W Ho Wo kh kw stride_y stride_x padding_y padding_x dilation_y dilation_x groups "
    "row_begin row_end channels_first index_begin index_end parts first_call stored_grad_x keep_columns"
).split()
_TENSORS = (
    "x offset mask columns grad_x grad_offset grad_mask gg_x gg_offset gg_mask "
    "index index_keys index_spare index_starts"
).split()


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
        self.kernels = _launch.kernels_of(x.device)
        if self.kernels == "cuda" and H * W >= 2**31:
            raise ValueError(f"mtm_ops: x must have fewer than 2^31 pixels a channel on CUDA; got {H}x{W}.")
        self.dtype = accumulation_dtype(x.dtype)
        self.storage = x.dtype if self.kernels == "cuda" else self.dtype  # dtype of x, gg_x and the columns
        self.device = x.device
        self.plan = Rows(B, size[0] * size[1], self.taps, self.C, self.groups, self.storage.itemsize, self.kernels)
        self.rows = B * self.plan.places
        geometry = (*size, *kernel_size, *stride, *padding, *dilation)
        self.params = SampleParams(self.C, H, W, *geometry, self.groups)
        self.params.keep_columns = 1
        self.tensors: dict[str, Tensor] = {}  # keeps the memory alive that the params point to
        self._summed: tuple[int, int] | None = None  # rows whose gradients have at least one call's share
        self._indexed: tuple[int, int] | None = None  # rows in the inverse index
        self.bind(x=to_rows(x.to(self.storage)), offset=offset.to(self.dtype).contiguous())
        if mask is not None:
            self.bind(mask=mask.to(self.dtype).contiguous())

    def bind(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.tensors[name] = tensor
            setattr(self.params, name, tensor.data_ptr())

    def chunks(self) -> list[tuple[int, int]]:
        """Row ranges [begin, end) that together cover the call."""
        return self.plan.chunks

    def new_columns(self) -> Tensor:
        """A buffer for the columns of one chunk."""
        return torch.empty(self.plan.longest, self.taps * self.C, dtype=self.storage, device=self.device)

    def bind_gradients(self, needs: Sequence[bool] = (True, True, True), calls: int = 1) -> None:
        """Allocates the gradients of x, offset and mask that `needs` names; calls: how many add to them per chunk.

        On CUDA the first call for a chunk writes, so nothing is set to zero first. x's gradient may be in the storage
        dtype if nothing is added to it later.
        """
        self._summed = None
        written = self.kernels == "cuda"
        self.params.stored_grad_x = int(written and calls == 1 and self.plan.whole_images)
        for name, need in zip(("x", "offset", "mask"), needs, strict=True):
            if need and name in self.tensors:
                dtype = self.storage if name == "x" and self.params.stored_grad_x else self.dtype
                make = torch.empty if written else torch.zeros
                self.bind(**{f"grad_{name}": make(self.tensors[name].shape, dtype=dtype, device=self.device)})
        if written and needs[0]:
            self._bind_index()

    def _bind_index(self) -> None:
        """Allocates the inverse index, from which x's gradient is computed (csrc/cuda_index.h)."""
        self._indexed = None
        self.params.parts = self.plan.index_parts
        entries, starts = self.plan.index_sizes(self.params.H * self.params.W)
        memory = torch.empty(3 * entries + starts, dtype=torch.int32, device=self.device)
        lists = memory.split((entries, entries, entries, starts))
        names = ("index", "index_keys", "index_spare", "index_starts")
        self.bind(**dict(zip(names, lists, strict=True)))

    def _index_rows(self, begin: int, end: int) -> None:
        """Builds the inverse index that contains a chunk's rows, unless the last one built contains them."""
        indexed = self.plan.indexed_with(begin, end)
        if indexed != self._indexed:
            self.params.index_begin, self.params.index_end = self._indexed = indexed
            _launch.launch("index", self.storage, self.device, self.params)

    def bind_cotangents(self, gg_x: Tensor | None, gg_offset: Tensor | None, gg_mask: Tensor | None) -> None:
        """Sets the cotangents of the gradients, shaped as x, offset and mask; None stands for zero."""
        given = {"x": None if gg_x is None else to_rows(gg_x), "offset": gg_offset, "mask": gg_mask}
        for name in given.keys() & self.tensors.keys():
            gg, like = given[name], self.tensors[name]
            self.bind(**{f"gg_{name}": torch.zeros_like(like) if gg is None else gg.to(like.dtype).contiguous()})

    def keep_gradients_alone(self) -> None:
        """Frees everything except the gradients. Call it when no more kernels will run."""
        self.tensors = {name: t for name, t in self.tensors.items() if name.startswith("grad_")}

    def gather(self, begin: int, end: int, columns: Tensor) -> Tensor:
        """Writes the columns of rows [begin, end) to `columns` [rows, taps*C], and returns it."""
        return self._launch("gather", begin, end, columns)

    def backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the gradients for g [rows, taps*C], the columns' gradient. Returns the columns, which overwrite g if
        params.keep_columns is set."""
        return self._launch("backward", begin, end, g)

    def double_backward(self, begin: int, end: int, g: Tensor) -> Tensor:
        """Adds the second-order gradients for g. Returns the gradient with respect to g, which overwrites g if
        params.keep_columns is set."""
        return self._launch("double_backward", begin, end, g)

    def _launch(self, name: str, begin: int, end: int, columns: Tensor) -> Tensor:
        self.params.row_begin, self.params.row_end = begin, end
        self.bind(columns=columns)
        if name != "gather":
            self.params.first_call = int(self._summed != (begin, end))
            self._summed = begin, end
            if "index" in self.tensors:
                self._index_rows(begin, end)
        _launch.launch(name, self.storage, self.device, self.params)
        return columns


def probe(device: torch.device) -> None:
    """Launches a kernel with no rows. Raises RuntimeError if CUDA refuses it."""
    _launch.launch("gather", torch.float32, device, SampleParams(*[1] * len(_SIZES)))  # rows [1, 1)


def products_of(s: Sampling, weight: Tensor) -> Products:
    """The call's matrix products with its weight [O, C/n, kh, kw]."""
    W, groups = weight.flatten(1) if s.params.channels_first else weight_matrix(weight), s.C // weight.shape[1]
    kind = CudaProducts if s.kernels == "cuda" and groups == 1 else Products
    return kind(W, s.taps, groups, s.dtype)


def forward(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation) -> Tensor:
    """y [B, O, Ho, Wo] in x's dtype and memory format; arguments as in `reference.deform_conv2d`."""
    # The rows of x and the columns are freed before y is converted to its layout; so are those of the backward passes.
    y = _output_rows(Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation), x.dtype, weight)
    return from_rows(y.view(x.shape[0], *offset.shape[2:], weight.shape[0]), x)


def _output_rows(s: Sampling, dtype: torch.dtype, weight: Tensor) -> Tensor:
    """y [B*Ho*Wo, O] in `dtype`."""
    O = weight.shape[0]
    # With few rows, the columns take the weight's order: converting the weight to theirs would cost more.
    few = s.rows <= O and weight.is_contiguous() and weight.shape[1] == s.C
    s.params.channels_first = s.kernels == "cpu" and few
    products = products_of(s, weight)
    buffer = s.new_columns()
    if len(s.chunks()) == 1:
        return products.outputs(s.gather(0, s.rows, buffer)).to(dtype)  # one chunk: no copy into a larger tensor
    y = torch.empty(s.rows, O, dtype=dtype, device=s.device)
    for begin, end in s.chunks():
        products.outputs(s.gather(begin, end, buffer[: end - begin]), y[begin:end])
    return y


def backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, weight, offset, mask); an empty tensor if `needs` is False or there is no mask."""
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    s.bind_gradients((needs[0], *needs[2:]))
    products = products_of(s, weight)
    _backward_chunks(s, products, to_rows(grad_y).view(s.rows, weight.shape[0]), needs)
    return _results(s, needs, x, weight, offset, mask, products.to_W)


def _backward_chunks(s: Sampling, products: Products, gy: Tensor, needs: Sequence[bool]) -> None:
    buffer = s.new_columns()
    s.params.keep_columns = int(needs[1])
    for begin, end in s.chunks():
        if needs[0] or needs[2] or needs[3]:
            columns = s.backward(begin, end, products.grad_columns(gy[begin:end], buffer))
        else:  # only the weight's gradient: the columns' gradient is not needed
            columns = s.gather(begin, end, buffer[: end - begin])
        if needs[1]:
            products.add_weight_gradient(gy[begin:end], columns)


def double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation, needs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `backward`'s results with respect to (grad_y, x, weight, offset, mask), empty as there.

    gg_* are the cotangents of those results; None stands for zero. A gg_weight of None saves half of the work, as in
    path-length regularisation, which differentiates only with respect to the latents.
    """
    s = Sampling(x, offset, mask, weight.shape[2:], stride, padding, dilation)
    s.bind_gradients((needs[1], *needs[3:]), calls=1 if gg_weight is None else 2)
    s.bind_cotangents(gg_x, gg_offset, gg_mask)
    products = products_of(s, weight)
    gg_W = None if gg_weight is None else weight_matrix(gg_weight)
    to_gy = _double_backward_chunks(s, products, gg_W, to_rows(grad_y).view(s.rows, weight.shape[0]), needs)
    results = _results(s, needs[1:], x, weight, offset, mask, products.to_W)
    if not needs[0]:
        return grad_y.new_empty(0), *results
    return from_rows(to_gy.view(x.shape[0], *offset.shape[2:], weight.shape[0]), grad_y), *results


def _double_backward_chunks(s: Sampling, products: Products, gg_W: Tensor | None, gy: Tensor, needs) -> Tensor:
    """The gradient with respect to gy, if needs[0]."""
    to_gy = torch.empty_like(gy)
    buffer = s.new_columns()
    for begin, end in s.chunks():
        gy_chunk = gy[begin:end]
        s.params.keep_columns = int(needs[0] or needs[2])
        tangent = s.double_backward(begin, end, products.grad_columns(gy_chunk, buffer))
        if needs[2]:
            products.add_weight_gradient(gy_chunk, tangent)
        if needs[0]:
            products.outputs(tangent, to_gy[begin:end])
        if gg_W is not None:
            s.params.keep_columns = int(needs[0])
            columns = s.backward(begin, end, products.grad_columns(gy_chunk, buffer, gg_W))
            if needs[0]:
                products.outputs(columns, to_gy[begin:end], gg_W, add=True)
    return to_gy


def _results(
    s: Sampling, needs, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, to_W: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, offset, mask) in their dtypes, empty if they are not needed."""
    s.keep_gradients_alone()
    weight_gradient = weight.new_empty(0)
    if needs[1]:  # to_W is None if there are no rows at all
        weight_gradient = empty_result(weight.shape, weight).zero_() if to_W is None else weight_like(to_W, weight)
    return (
        from_rows(s.tensors["grad_x"], x) if needs[0] else x.new_empty(0),
        weight_gradient,
        s.tensors["grad_offset"].to(offset.dtype) if needs[2] else offset.new_empty(0),
        s.tensors["grad_mask"].to(mask.dtype) if needs[3] and mask is not None else offset.new_empty(0),
    )
