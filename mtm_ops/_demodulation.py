"""Demodulation of a modulated convolution on CUDA: one kernel forward and one backward, registered with torch.

Plain torch needs about twenty kernels for the same few sums. That version is kept as `reference`: it is the
specification, runs on a CPU and in exported graphs, and computes the second derivative.
"""

import ctypes
import math

import torch
from torch import Tensor

from . import _launch
from ._operators import define

EPS = 1e-8
_SIZES = "B O width taps groups channel_step tap_step rescale".split()
_FLOATS = "eps tiny_weight tiny_style".split()
_TENSORS = (
    "weight style scaled_weight scaled_style energy factors gain style_out gain_out grad_scaled_weight grad_style_out "
    "grad_gain_out grad_weight grad_style"
).split()


class DemodulateParams(ctypes.Structure):
    """Mirror of DemodulateParams in csrc/cuda_demodulate.h."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in _SIZES]
        + [(name, ctypes.c_double) for name in _FLOATS]
        + [(name, ctypes.c_void_p) for name in _TENSORS]
    )


def reference(weight: Tensor, style: Tensor, dtype: torch.dtype, rescale: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, style, gain) of a modulated convolution.

    Args:
        weight: [O, C/n, kh, kw] of n weight groups.
        style: [B, C].
        dtype: of the sums and the gain.
        rescale: bring weight and style to at most 1, so that a product in float16 cannot overflow. The gain undoes the
            factors (except for its epsilon), so that the result and the gradients do not depend on them.

    Returns:
        Weight and style, rescaled if requested; gain [B, O] = 1 / |weight * style|.
    """
    if rescale:
        weight = weight * (1 / math.sqrt(weight[0].numel()) / _largest(weight, (1, 2, 3)))
        style = style * (1 / _largest(style, (1,))).to(style.dtype)
    return weight, style, (_norms(weight.to(dtype), style.to(dtype)) + EPS).rsqrt()


def native(weight: Tensor, style: Tensor, dtype: torch.dtype, rescale: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Like `reference`, in one kernel. The weight is returned channels-last, style and gain in the weight's dtype."""
    return torch.ops.mtm_ops.demodulate(weight, style.to(dtype), rescale)[:3]


def _norms(weight: Tensor, style: Tensor) -> Tensor:
    """[B, O]: the squared norm of each sample's modulated weight per output channel."""
    energy = weight.square().sum((2, 3))  # [O, C/n]
    n = style.shape[1] // energy.shape[1]
    if n == 1:
        return style.square() @ energy.t()
    styles = style.square().unflatten(1, (n, energy.shape[1])).transpose(0, 1)  # [n, B, C/n]
    return torch.bmm(styles, energy.unflatten(0, (n, -1)).transpose(1, 2)).transpose(0, 1).flatten(1)


def _largest(t: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Largest magnitude over `dims`, kept as size 1, never zero, a constant for autograd."""
    return t.detach().abs().amax(dims, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)


def _params(weight: Tensor, style: Tensor, rescale: bool, tensors: dict[str, Tensor | None]) -> DemodulateParams:
    O, width, kh, kw = weight.shape
    taps, groups = kh * kw, style.shape[1] // width
    steps = (taps, 1) if weight.is_contiguous() else (1, width)
    tiny = (torch.finfo(t.dtype).tiny for t in (weight, style))
    params = DemodulateParams(style.shape[0], O, width, taps, groups, *steps, rescale, EPS, *tiny)
    for name, t in {"weight": weight, "style": style, **tensors}.items():
        setattr(params, name, None if t is None else t.data_ptr())
    return params


def _dense(weight: Tensor) -> Tensor:
    """Contiguous or channels-last."""
    return weight if weight.is_contiguous(memory_format=torch.channels_last) else weight.contiguous()


def _empty_results(weight: Tensor, style: Tensor, rescale: bool) -> tuple[Tensor, ...]:
    """Uninitialised memory for the tensors that _RESULTS names."""
    (O, width), B = weight.shape[:2], style.shape[0]
    return (
        torch.empty(weight.shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last),
        weight.new_empty(style.shape),
        weight.new_empty(B, O),
        style.new_empty(style.shape),
        style.new_empty(B, O),
        style.new_empty(O, width),
        style.new_empty(O + B),
    )


# The last four are only for the backward: see csrc/cuda_demodulate.h.
_RESULTS = ("scaled_weight", "style_out", "gain_out", "scaled_style", "gain", "energy", "factors")


def _forward(weight: Tensor, style: Tensor, rescale: bool) -> tuple[Tensor, ...]:
    weight, style = _dense(weight), style.contiguous()  # named, so that they stay alive until the launch
    results = _empty_results(weight, style, rescale)
    params = _params(weight, style, rescale, dict(zip(_RESULTS, results, strict=True)))
    _launch.launch("demodulate", weight.dtype, weight.device, params)
    return results


def _empty_gradients(weight: Tensor, style: Tensor, rescale: bool, *_) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_dense(weight)), style.new_empty(style.shape)


def _backward(
    weight: Tensor,
    style: Tensor,
    rescale: bool,
    grad_weight: Tensor | None,
    grad_style: Tensor | None,
    grad_gain: Tensor | None,
    *results: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of (weight, style), given those of weight', style' and gain; None stands for zero."""
    weight, style = _dense(weight), style.contiguous()
    to_weight, to_style = _empty_gradients(weight, style, rescale)
    given: dict[str, Tensor | None] = {
        **dict(zip(_RESULTS, results, strict=True)),
        "grad_scaled_weight": None
        if grad_weight is None
        else grad_weight.contiguous(memory_format=torch.channels_last),
        "grad_style_out": None if grad_style is None else grad_style.contiguous(),
        "grad_gain_out": torch.zeros_like(results[2]) if grad_gain is None else grad_gain.contiguous(),
        "grad_weight": to_weight,
        "grad_style": to_style,
    }
    params = _params(weight, style, rescale, given)
    _launch.launch("demodulate_backward", weight.dtype, weight.device, params)
    return to_weight, to_style


def _setup(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.rescale = inputs[2]
    ctx.save_for_backward(*inputs[:2], *output)
    ctx.mark_non_differentiable(*output[3:])


def _autograd(ctx, *grads):
    weight, style, *results = ctx.saved_tensors
    return *torch.ops.mtm_ops.demodulate_backward(weight, style, ctx.rescale, *grads[:3], *results), None


def _setup_backward(ctx, inputs, output) -> None:
    weight, style, ctx.rescale, *grads = inputs[:6]
    ctx.given = [g is not None for g in grads]
    ctx.save_for_backward(weight, style, *(g for g in grads if g is not None))


def _autograd_backward(ctx, gg_weight, gg_style):
    """Differentiates the reference; so do all further derivatives."""
    further = torch.is_grad_enabled()  # otherwise the results would keep an unused graph, and its memory
    with torch.enable_grad():
        weight, style, *grads = (t.view_as(t) for t in ctx.saved_tensors)
        inputs = [t if t.requires_grad else t.requires_grad_() for t in (weight, style, *grads)]
        outputs = [t.to(weight.dtype) for t in reference(weight, style, style.dtype, ctx.rescale)]
        outputs = [t for t, given in zip(outputs, ctx.given, strict=True) if given]
        first = torch.autograd.grad(outputs, (weight, style), grads, create_graph=True, materialize_grads=True)
        found = torch.autograd.grad(first, inputs, (gg_weight, gg_style), create_graph=further, allow_unused=True)
    to_grads = iter(found[2:])
    through = (next(to_grads) if given else None for given in ctx.given)
    return *found[:2], None, *through, *[None] * len(_RESULTS)


def register(lib: torch.library.Library) -> None:
    """Registers the two operators in `lib`. No tensor lists: torch's batching (is_grads_batched) takes none."""
    schema = "demodulate(Tensor weight, Tensor style, bool rescale) -> (" + ", ".join(["Tensor"] * len(_RESULTS)) + ")"
    define(lib, schema, _forward, _empty_results, _autograd, _setup)
    schema = (
        "demodulate_backward(Tensor weight, Tensor style, bool rescale, Tensor? grad_weight, Tensor? grad_style, "
        f"Tensor? grad_gain, {', '.join(f'Tensor {name}' for name in _RESULTS)}) -> (Tensor, Tensor)"
    )
    define(lib, schema, _backward, _empty_gradients, _autograd_backward, _setup_backward)
