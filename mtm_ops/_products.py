"""One call's matrix products with the weight as a matrix W [O, kh*kw*C/n]; _matrix.py describes the layouts.

There is one class for the CPU and one for CUDA. On a CPU a product may return new memory (oneDNN's does). On CUDA it is
written to its destination, and the product itself accumulates the weight's gradient in float32.
"""

import torch
from torch import Tensor

from . import _matrix


class Products:
    """Products on a CPU, and on any device with several weight groups."""

    def __init__(self, W: Tensor, taps: int, groups: int, dtype: torch.dtype) -> None:
        self.W, self.taps, self.groups = W, taps, groups
        self.dtype = dtype  # of the sums
        self.to_W: Tensor | None = None  # the sum that add_weight_gradient accumulates, in W's order

    def outputs(
        self, columns: Tensor, into: Tensor | None = None, W: Tensor | None = None, add: bool = False
    ) -> Tensor:
        """columns W^T [rows, O]; written to `into` if given, or added to its content if `add`."""
        y = _matrix.outputs(columns, self.W if W is None else W, self.taps, self.groups)
        if into is None:
            return y
        return into.add_(y) if add else into.copy_(y)

    def grad_columns(self, gy: Tensor, buffer: Tensor, W: Tensor | None = None) -> Tensor:
        """gy W [rows, taps*C], in `buffer` or in new memory."""
        return _matrix.grad_columns(gy, self.W if W is None else W, buffer[: gy.shape[0]], self.taps, self.groups)

    def add_weight_gradient(self, gy: Tensor, columns: Tensor) -> None:
        """to_W += gy^T columns."""
        self.to_W = _matrix.add_weight_gradient(self.to_W, gy, columns, self.dtype, self.taps, self.groups)


class CudaProducts(Products):
    """Products on CUDA with one weight group: cuBLAS reads transposed matrices, so nothing is copied or cast."""

    def __init__(self, W: Tensor, taps: int, groups: int, dtype: torch.dtype) -> None:
        super().__init__(W, taps, groups, dtype)
        self.W_t = W.t()

    def outputs(
        self, columns: Tensor, into: Tensor | None = None, W: Tensor | None = None, add: bool = False
    ) -> Tensor:
        W_t = self.W_t if W is None else W.t()
        if into is None or not add:
            return torch.mm(columns, W_t, out=into)
        return into.addmm_(columns, W_t)

    def grad_columns(self, gy: Tensor, buffer: Tensor, W: Tensor | None = None) -> Tensor:
        return torch.mm(gy, self.W if W is None else W, out=buffer[: gy.shape[0]])

    def add_weight_gradient(self, gy: Tensor, columns: Tensor) -> None:
        if columns.dtype == self.dtype:
            self.to_W = torch.mm(gy.t(), columns) if self.to_W is None else self.to_W.addmm_(gy.t(), columns)
            return
        part = torch.mm(gy.t(), columns, out_dtype=self.dtype)  # half types, without rounding per chunk
        self.to_W = part if self.to_W is None else self.to_W.add_(part)
