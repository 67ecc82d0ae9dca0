"""Registers the op with torch: schema, CPU and CUDA kernels, fake kernel, autograd to the second order, autocast rule.

Three operators, each the gradient of the one before: deform_conv2d, deform_conv2d_backward and
deform_conv2d_double_backward. Modulation stays outside, in plain torch (functional.py).
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from . import _build, _demodulation, _flops, _half_conv, _native
from ._checks import check_backward, check_double_backward, check_forward
from ._matrix import empty_result
from ._precision import precision_of_convolutions
from ._wanted import will_run

NAMESPACE = "mtm_ops"
KERNEL_DEVICES = ("cpu", "cuda")
_GEOMETRY = "int[] stride, int[] padding, int[] dilation"
_lib = torch.library.Library(NAMESPACE, "DEF")
for _schema in (
    f"deform_conv2d(Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}) -> Tensor",
    f"deform_conv2d_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}, "
    "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
    "deform_conv2d_double_backward(Tensor? gg_x, Tensor? gg_weight, Tensor? gg_offset, Tensor? gg_mask, "
    f"Tensor grad_y, Tensor x, Tensor weight, Tensor offset, Tensor? mask, {_GEOMETRY}, "
    "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
):
    _lib.define(_schema, tags=torch.Tag.pt2_compliant_tag)

_ops = torch.ops.mtm_ops
Function = TypeVar("Function", bound=Callable)


def constant_while_tracing(function: Function) -> Function:
    """torch.compiler.assume_constant_result: Dynamo calls the function and treats its result as a constant. It avoids
    the import of torch._dynamo, which takes longer than torch's own."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_while_tracing
def why_not_native(device: str, index: int | None = None) -> str | None:
    """None if the native kernel runs on this device, else the reason. Builds the kernel if necessary.

    Args:
        device, index: a torch.device's type and index; the current device if the index is None.
    """
    if device == "meta":
        return None  # shapes need no kernel
    if device not in KERNEL_DEVICES:
        return f"there are kernels for {' and '.join(KERNEL_DEVICES)} tensors, not for {device}."
    try:
        if device == "cpu":
            _build.load_cpu()
        elif torch.cuda.is_available():  # otherwise the tensor is fake, and shapes need no kernel
            _try_cuda(torch.cuda.current_device() if index is None else index)
    except RuntimeError as error:
        return str(error)
    return None


@functools.cache
def _try_cuda(index: int) -> None:
    """Raises RuntimeError if the kernel cannot be built or does not start, e.g. because the driver is too old."""
    device = torch.device("cuda", index)
    _build.load_cuda(torch.cuda.get_device_capability(device))
    _native.probe(device)


def deform_conv2d(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, stride, padding, dilation) -> Tensor:
    """The registered op; arguments as in `reference.deform_conv2d`. Third-order gradients raise RuntimeError."""
    _refuse_forward_mode(x, weight, offset, mask)
    return _ops.deform_conv2d(x, weight, offset, mask, stride, padding, dilation)


def _refuse_forward_mode(*tensors: Tensor | None) -> None:
    """Raises: torch would silently drop the tangents of an op that has only backward formulas."""
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "modulated_deform_conv2d: impl='native' has no forward-mode derivative, and an argument has a tangent. "
            "Pass impl='reference' for forward mode."
        )


def _fake_forward(x, weight, offset, mask, stride, padding, dilation):
    return empty_result((x.shape[0], weight.shape[0], *offset.shape[2:]), x)


def _fake_backward(grad_y, x, weight, offset, mask, stride, padding, dilation, needs):
    return (
        empty_result(x.shape, x) if needs[0] else x.new_empty(0),
        empty_result(weight.shape, weight) if needs[1] else weight.new_empty(0),
        offset.new_empty(offset.shape) if needs[2] else offset.new_empty(0),
        mask.new_empty(mask.shape) if needs[3] and mask is not None else offset.new_empty(0),
    )


def _fake_double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation, needs
):
    to_grad_y = empty_result(grad_y.shape, grad_y) if needs[0] else grad_y.new_empty(0)
    return to_grad_y, *_fake_backward(grad_y, x, weight, offset, mask, stride, padding, dilation, needs[1:])


def _checked(check, run):
    """`run` after `check`, for real and fake kernels. Autocast is disabled, because it would cast the matmuls inside: a
    backward pass may run within autocast although its forward ran outside."""

    def kernel(*args):
        check(*args)
        with torch._C._DisableAutocast():
            return run(*args)

    return kernel


def _save(ctx, tensors, geometry) -> None:
    ctx.set_materialize_grads(False)  # an unused gradient is None, and its matmuls are skipped
    ctx.save_for_backward(*tensors)
    ctx.geometry = geometry


_weight_gradients_disabled = False  # global, not per thread: autograd runs backward passes on its own threads


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Backward passes within the context do not compute the weight's gradient, which saves its cost.

    It applies to impl="native"; the gradient is then None, as for a weight that does not require one. The semantics are
    those of StyleGAN's conv2d_gradfix.no_weight_gradients. You need it only for `backward()`: `torch.autograd.grad(y,
    inputs)` computes only the gradients of `inputs`, with or without it. With demodulation, the weight's gradient
    through its norm remains. A network compiled by torch.compile ignores the switch and computes the gradient.

    Args:
        disable: if False, the context changes nothing; pass an option here.

    Examples:
        >>> x, weight = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
        >>> y = deform_conv2d(x, weight, torch.zeros(1, 18, 2, 2), None, (1, 1), (0, 0), (1, 1))
        >>> with no_weight_gradients():
        ...     y.sum().backward()
        >>> weight.grad is None, x.grad is None
        (True, False)
    """
    global _weight_gradients_disabled
    before = _weight_gradients_disabled
    _weight_gradients_disabled = before or disable
    try:
        yield
    finally:
        _weight_gradients_disabled = before


def _needs(ctx, count: int, weight: int) -> list[bool]:
    """Which gradients of the first `count` inputs this backward pass will use; `weight` is the weight's index.

    ctx.needs_input_grad tells only which inputs require a gradient. autograd.grad(y, inputs) uses fewer, and
    path-length regularisation requests only the latents'.
    """
    needs = [bool(n) for n in ctx.needs_input_grad[:count]]
    for i, (node, _) in enumerate(ctx.next_functions[:count]):  # only tensors; the mask, which may be None, is the last
        needs[i] = needs[i] and will_run(node)
    # A graph that is traced now runs later, when the switch may be set differently.
    needs[weight] = needs[weight] and not (_weight_gradients_disabled and get_proxy_mode() is None)
    return needs


def _pick(grads, needs) -> tuple[Tensor | None, ...]:
    return tuple(grad if need else None for grad, need in zip(grads, needs, strict=True))


def _setup_forward(ctx, inputs, output) -> None:
    _save(ctx, inputs[:4], inputs[4:7])


def _backward(ctx, grad_y):
    if grad_y is None:
        return (None,) * 7
    needs = _needs(ctx, 4, weight=1)
    grads = _ops.deform_conv2d_backward(grad_y, *ctx.saved_tensors, *ctx.geometry, needs)
    return *_pick(grads, needs), None, None, None


def _setup_backward(ctx, inputs, output) -> None:
    _save(ctx, inputs[:5], inputs[5:8])


def _double_backward(ctx, gg_x, gg_weight, gg_offset, gg_mask):
    cotangents = [None if gg is None or gg.numel() == 0 else gg for gg in (gg_x, gg_weight, gg_offset, gg_mask)]
    needs = _needs(ctx, 5, weight=2)
    grads = _ops.deform_conv2d_double_backward(*cotangents, *ctx.saved_tensors, *ctx.geometry, needs)
    return *_pick(grads, needs), None, None, None, None


def _no_third_order(ctx, *grads):
    raise RuntimeError(
        "modulated_deform_conv2d: impl='native' is differentiable twice; a third derivative was asked for. "
        "Pass impl='reference' to differentiate further."
    )


def _autocast(device: str, key: torch._C.DispatchKey):
    """Casts x and weight to the autocast dtype, not offset and mask: at 32, float16 has steps of 1/32 px."""

    def rule(x, weight, offset, mask, stride, padding, dilation):
        dtype = x.dtype if x.dtype == torch.float64 else torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return _ops.deform_conv2d(x.to(dtype), weight.to(dtype), offset, mask, stride, padding, dilation)

    return rule


def _flop_formula(op: str, formula: Callable[..., int]) -> None:
    log = logging.getLogger("torch.utils.flop_counter")
    before = log.level
    log.setLevel(logging.ERROR)  # when imported, torch 2.11 warns that Triton is missing
    from torch.utils.flop_counter import register_flop_formula

    log.setLevel(before)
    register_flop_formula(getattr(_ops, op))(formula)


def _register() -> None:
    name = functools.partial("{}::{}".format, NAMESPACE)
    kernels: dict[str, tuple[Callable[..., Any], ...]] = {  # op: check, real kernel, fake kernel, FLOPs
        "deform_conv2d": (check_forward, _native.forward, _fake_forward, _flops.forward),
        "deform_conv2d_backward": (check_backward, _native.backward, _fake_backward, _flops.backward),
        "deform_conv2d_double_backward": (
            check_double_backward,
            _native.double_backward,
            _fake_double_backward,
            _flops.double_backward,
        ),
    }
    for op, (check, real, fake, flops) in kernels.items():
        _lib.impl(op, _checked(check, real), "CPU")
        _lib.impl(op, _checked(check, precision_of_convolutions()(real)), "CUDA")
        torch.library.register_fake(name(op), _checked(check, fake), lib=_lib)
        _flop_formula(op, flops)
    _demodulation.register(_lib)
    _half_conv.register(_lib)
    register_autograd = functools.partial(torch.library.register_autograd, lib=_lib)
    register_autograd(name("deform_conv2d"), _backward, setup_context=_setup_forward)
    register_autograd(name("deform_conv2d_backward"), _double_backward, setup_context=_setup_backward)
    register_autograd(name("deform_conv2d_double_backward"), _no_third_order)
    for device in ("CPU", "CUDA"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device}")
        _lib.impl("deform_conv2d", _autocast(device.lower(), key), f"Autocast{device}")


_register()
