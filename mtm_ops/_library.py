"""Registers the op with torch: schema, CPU and CUDA kernels, fake kernel, autograd to the second order, autocast rule.

Three operators, each the gradient of the one before: deform_conv2d, deform_conv2d_backward and
deform_conv2d_double_backward. Modulation stays outside, in plain torch (functional.py).
"""

import functools

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _build, _native
from .reference import output_size

NAMESPACE = "mtm_ops"
KERNEL_DEVICES = ("cpu", "cuda")
_GEOMETRY = "int[] stride, int[] padding, int[] dilation"
_lib = torch.library.Library(NAMESPACE, "DEF")
for _schema in (
    f"deform_conv2d(Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}) -> Tensor",
    f"deform_conv2d_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}, "
    "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
    "deform_conv2d_double_backward(Tensor? gg_x, Tensor? gg_weight, Tensor? gg_offset, Tensor? gg_mask, "
    f"Tensor grad_y, Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
):
    _lib.define(_schema, tags=torch.Tag.pt2_compliant_tag)

_ops = torch.ops.mtm_ops


@torch.compiler.assume_constant_result
def why_not_native(device: str) -> str | None:
    """None where the native kernel runs on this device type, else the reason. Builds the kernel if need be."""
    if device == "meta":
        return None  # shapes need no kernel
    if device not in KERNEL_DEVICES:
        return f"there are kernels for {' and '.join(KERNEL_DEVICES)} tensors, not for {device}."
    try:
        if device == "cpu":
            _build.load_cpu()
        else:
            _build.load_cuda(torch.cuda.get_device_capability())
    except _build.BuildError as error:
        return str(error)
    return None


def deform_conv2d(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation) -> Tensor:
    """The registered op; arguments as `reference.deform_conv2d`. Third-order gradients raise RuntimeError."""
    _refuse_forward_mode(x, weight, offset, mask)
    return _ops.deform_conv2d(x, weight, offset, mask, stride, padding, dilation)


def _refuse_forward_mode(*tensors: Tensor | None) -> None:
    """torch would drop the tangents of an op that has only backward formulas, without a word."""
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "modulated_deform_conv2d: impl='native' has no forward-mode derivative, and an argument has a tangent. "
            "Pass impl='reference' for forward mode."
        )


def _fake_forward(x, weight, offset, mask, stride, padding, dilation):
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return x.new_empty(x.shape[0], weight.shape[0], *size).contiguous(memory_format=_native.memory_format(x))


def _empty_like(t: Tensor) -> Tensor:
    return torch.empty_like(t, memory_format=_native.memory_format(t))


def _fake_backward(grad_y, x, weight, offset, mask, stride, padding, dilation, needs):
    return (
        _empty_like(x) if needs[0] else x.new_empty(0),
        _empty_like(weight) if needs[1] else weight.new_empty(0),
        offset.new_empty(offset.shape) if needs[2] else offset.new_empty(0),
        mask.new_empty(mask.shape) if needs[3] and mask is not None else offset.new_empty(0),
    )


def _fake_double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation
):
    results = _fake_backward(grad_y, x, weight, offset, mask, stride, padding, dilation, (True,) * 4)
    return _empty_like(grad_y), *results


def _save(ctx, tensors, geometry) -> None:
    ctx.set_materialize_grads(False)  # an unused gradient comes as None, and its products are skipped
    ctx.save_for_backward(*tensors)
    ctx.geometry = geometry


def _setup_forward(ctx, inputs, output) -> None:
    _save(ctx, inputs[:4], inputs[4:7])


def _backward(ctx, grad_y):
    if grad_y is None:
        return (None,) * 7
    needs = [bool(n) for n in ctx.needs_input_grad[:4]]
    grads = _ops.deform_conv2d_backward(grad_y, *ctx.saved_tensors, *ctx.geometry, needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None


def _setup_backward(ctx, inputs, output) -> None:
    _save(ctx, inputs[:5], inputs[5:8])
    ctx.has_mask = inputs[4] is not None


def _double_backward(ctx, gg_x, gg_weight, gg_offset, gg_mask):
    cotangents = [None if gg is None or gg.numel() == 0 else gg for gg in (gg_x, gg_weight, gg_offset, gg_mask)]
    grads = _ops.deform_conv2d_double_backward(*cotangents, *ctx.saved_tensors, *ctx.geometry)
    return *grads[:4], grads[4] if ctx.has_mask else None, None, None, None, None


def _no_third_order(ctx, *grads):
    raise RuntimeError(
        "modulated_deform_conv2d: impl='native' is differentiable twice; a third derivative was asked for. "
        "Pass impl='reference' to differentiate further."
    )


def _autocast(device: str, key: torch._C.DispatchKey):
    """x and weight go to the autocast dtype; offset and mask stay as they are: a half has steps of 1/32 px at 32."""

    def rule(x, weight, offset, mask, stride, padding, dilation):
        dtype = x.dtype if x.dtype == torch.float64 else torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return _ops.deform_conv2d(x.to(dtype), weight.to(dtype), offset, mask, stride, padding, dilation)

    return rule


def _register() -> None:
    name = functools.partial("{}::{}".format, NAMESPACE)
    for key in ("CPU", "CUDA"):
        _lib.impl("deform_conv2d", _native.forward, key)
        _lib.impl("deform_conv2d_backward", _native.backward, key)
        _lib.impl("deform_conv2d_double_backward", _native.double_backward, key)
    torch.library.register_fake(name("deform_conv2d"), _fake_forward, lib=_lib)
    torch.library.register_fake(name("deform_conv2d_backward"), _fake_backward, lib=_lib)
    torch.library.register_fake(name("deform_conv2d_double_backward"), _fake_double_backward, lib=_lib)
    register_autograd = functools.partial(torch.library.register_autograd, lib=_lib)
    register_autograd(name("deform_conv2d"), _backward, setup_context=_setup_forward)
    register_autograd(name("deform_conv2d_backward"), _double_backward, setup_context=_setup_backward)
    register_autograd(name("deform_conv2d_double_backward"), _no_third_order)
    for device in ("CPU", "CUDA"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device}")
        _lib.impl("deform_conv2d", _autocast(device.lower(), key), f"Autocast{device}")


_register()
