"""grid_sample that is differentiable twice with respect to its input, for the video hosts' augmentation under R1.

The hosts' own version works with torch 1.9 and older. With newer versions it falls back to torch's, which not every
version of torch can differentiate twice. If torch can, this module calls torch's.
"""

import functools
from typing import Any

import torch
from torch import Tensor

_HOW = (0, 0, False)  # bilinear, zeros outside, corners not aligned


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """torch.nn.functional.grid_sample, bilinear: input [N, C, H, W], grid [N, Ho, Wo, 2] without a second gradient."""
    if _torch_differentiates_twice():
        return torch.nn.functional.grid_sample(input, grid, align_corners=False)
    return _Sample.apply(input, grid)


@functools.cache
def _torch_differentiates_twice() -> bool:
    with torch.enable_grad():
        x = torch.zeros(1, 1, 2, 2, requires_grad=True)
        y = torch.nn.functional.grid_sample(x, torch.zeros(1, 1, 1, 2), align_corners=False)
        (grad_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        try:
            torch.autograd.grad(grad_x.sum(), x)
        except RuntimeError:  # "derivative for aten::grid_sampler_2d_backward is not implemented"
            return False
    return True


class _Sample(torch.autograd.Function):
    """Linear in x, so the gradient of its backward with respect to grad_y is the same function of the cotangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid)
        return torch.ops.aten.grid_sampler_2d(x, grid, *_HOW)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return _Scatter.apply(grad_y, *ctx.saved_tensors, ctx.needs_input_grad)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, x: Tensor, grid: Tensor, wanted: Any) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(grid)
        grad_x, grad_grid = torch.ops.aten.grid_sampler_2d_backward(grad_y, x, grid, *_HOW, list(wanted))
        return grad_x if wanted[0] else None, grad_grid if wanted[1] else None

    @staticmethod
    def backward(ctx: Any, ggx: Tensor | None, ggrid: Tensor | None) -> tuple[Any, ...]:
        (grid,) = ctx.saved_tensors
        if ctx.needs_input_grad[2]:
            raise RuntimeError(
                "grid_sample: grid must not require a gradient where input is differentiated twice. Detach it, or "
                "install a torch that differentiates grid_sample twice."
            )
        return None if ggx is None else _Sample.apply(ggx, grid), None, None, None
