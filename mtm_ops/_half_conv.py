"""A convolution of half-precision values with float32 sums and results, registered with torch, of any order.

torch has none: a convolution of halves rounds its result to a half, and one in float32 runs without tensor cores if
TF32 is off, as StyleGAN's training loop sets it. TF32 has 11 significant bits, like float16, and float32's range. So
half-precision values convert to it exactly, and their products are exact in float32. Only values computed in float32
before (x times style, the weight) are rounded, as they would be to float16.

    y = x * w;  x's gradient: grad_y * w transposed;  w's gradient: the correlation of grad_y with x;  second-order
    gradients are of the same kinds
"""

import torch
from torch import Tensor

from ._operators import define
from ._precision import convolutions_in_tf32
from ._wanted import will_run

_ops = torch.ops.mtm_ops


def half_conv2d(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """float32 x [B, C, H, W], weight [O, C, kh, kw] -> float32 [B, O, Ho, Wo]. On CUDA, x and weight may be rounded to
    11 significant bits; on a CPU they are not. Differentiable to any order."""
    return _ops.half_conv2d(x, weight, padding)


def _forward(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    with convolutions_in_tf32(), torch._C._DisableAutocast():
        return torch.conv2d(x, weight, padding=padding)


def _fake_forward(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    return torch.conv2d(x, weight, padding=padding)


def _geometry(padding: int) -> tuple:
    """Arguments of aten.convolution_backward: stride, padding, dilation, transposed, output padding, groups."""
    return [1, 1], [padding, padding], [1, 1], False, [0, 0], 1


def _fake_backward(grad_y: Tensor, x: Tensor, weight: Tensor, padding: int, needs: list[bool]) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten.convolution_backward(grad_y, x, weight, None, *_geometry(padding), [*needs, False])
    return tuple(x.new_empty(0) if t is None else t for t in found[:2])  # type: ignore[return-value]


def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, padding: int, needs: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; an empty tensor if it is not needed."""
    with convolutions_in_tf32(), torch._C._DisableAutocast():
        return _fake_backward(grad_y, x, weight, padding, needs)


def _needs(ctx, count: int) -> list[bool]:
    nodes = [node for node, _ in ctx.next_functions[:count]]
    return [bool(need) and will_run(node) for need, node in zip(ctx.needs_input_grad[:count], nodes, strict=True)]


def _setup(ctx, inputs, output) -> None:
    x, weight, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _autograd(ctx, grad_y):
    needs = _needs(ctx, 2)
    found = _ops.half_conv2d_backward(grad_y, *ctx.saved_tensors, ctx.padding, needs)
    return *(t if need else None for t, need in zip(found, needs, strict=True)), None


def _setup_backward(ctx, inputs, output) -> None:
    *tensors, ctx.padding, ctx.given = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _autograd_backward(ctx, gg_x, gg_weight):
    """Gradients of <gg_x, grad_x> + <gg_weight, grad_weight>, which is <grad_y, gg_x * w> + <grad_y, x * gg_weight>."""
    grad_y, x, weight = ctx.saved_tensors
    needs, padding = _needs(ctx, 3), ctx.padding
    to_y = to_x = to_weight = None
    if ctx.given[0] and gg_x is not None:
        to_y = _ops.half_conv2d(gg_x, weight, padding) if needs[0] else None
        if needs[2]:
            to_weight = _ops.half_conv2d_backward(grad_y, gg_x, weight, padding, [False, True])[1]
    if ctx.given[1] and gg_weight is not None:
        if needs[0]:
            through = _ops.half_conv2d(x, gg_weight, padding)
            to_y = through if to_y is None else to_y + through
        if needs[1]:
            to_x = _ops.half_conv2d_backward(grad_y, x, gg_weight, padding, [True, False])[0]
    return to_y, to_x, to_weight, None, None


def register(lib: torch.library.Library) -> None:
    """Registers the two operators in `lib`."""
    schema = "half_conv2d(Tensor x, Tensor weight, int padding) -> Tensor"
    define(lib, schema, _forward, _fake_forward, _autograd, _setup)
    schema = (
        "half_conv2d_backward(Tensor grad_y, Tensor x, Tensor weight, int padding, bool[] needs) -> (Tensor, Tensor)"
    )
    define(lib, schema, _backward, _fake_backward, _autograd_backward, _setup_backward)
