"""The public function: argument checks, modulation and demodulation around the deformable convolution."""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from . import _library, reference

IMPLS = ("auto", "native", "reference")
_DEMODULATION_EPS = 1e-8
_warned: set[str] = set()


class Geometry(NamedTuple):
    """Stride, padding and dilation, (y, x) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def modulated_deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    style: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    demodulate: bool = True,
    impl: str = "auto",
) -> Tensor:
    """Convolution that samples its input where `offset` says, with StyleGAN2's per-sample modulation.

        y(p) = d * sum_i  weight_i * style * mask_i * x(p + p_i + offset_i(p))

    with bilinear x, zero outside the image, and d = 1 / |weight * style| per sample and output channel. Eq. (2) of
    the MTM paper (arXiv 2308.15472) inside the modulated convolution of Karras et al. 2020, section 2.2.
    "Modulate" and "style" mean StyleGAN's scaling here; DCNv2's factor per tap is always "mask".

    Args:
        x: [B, C, H, W].
        weight: [O, C, kh, kw], of x's dtype.
        offset: [B, 2*G*kh*kw, Ho, Wo] in input pixels, (dy, dx) per tap, taps row-major: torchvision's order. G, the
            number of offset groups (channel ranges with offsets of their own), is inferred and must divide C.
        style: [B, C] factors of the input channels, or None: neither modulation nor demodulation.
        mask: [B, G*kh*kw, Ho, Wo] factors of the taps, or None.
        stride, padding, dilation: of the convolution, int or (y, x).
        demodulate: divide by the norm of the modulated weight; only with a style.
        impl: "native" (the compiled kernel), "reference" (plain torch), or "auto": native where it can be built,
            else the reference, with one warning that says why. torch.export records the registered op for both
            of the first two, also where it cannot be built.

    Returns:
        [B, O, Ho, Wo] in x's dtype (the autocast dtype under autocast) and memory format.

    dtypes: float32, float64, float16, bfloat16. Offsets and masks may differ from x: they are used in float32
        (float64 for float64 x), and so are all sums over corners. In float16, weight and style are scaled to at
        most 1 before the product, which demodulation cancels, so that it cannot overflow.
    Border: a corner outside the image is 0. A tap at a non-finite place, or a pixel or more outside, sees 0 and has
        no gradient. A corner of weight 0 is multiplied, not skipped: NaN and infinity in x reach its neighbours.
    Gradients: "native" to the second order, for x, weight, offset, style and mask; a third raises RuntimeError,
        forward mode NotImplementedError; torch.func's transforms do not take it. "reference" to any order. At whole
        pixels the offset's gradient is that of the side towards larger coordinates.
    Determinism: the same bits on every call on the CPU; sampling and its gradients for any number of threads.
        On CUDA x's gradient adds in any order, unless torch.use_deterministic_algorithms(True); torch's own products
        then ask for CUBLAS_WORKSPACE_CONFIG.
    Memory: "native" never holds the columns whole, forward or backward; "reference" does.
    Errors: ValueError for shapes, TypeError for dtypes, RuntimeError where impl="native" cannot be had. All say what
        was expected and what came.

    >>> x, weight = torch.randn(2, 8, 16, 16), torch.randn(4, 8, 3, 3)
    >>> offset, style = torch.randn(2, 18, 16, 16), torch.randn(2, 8)
    >>> modulated_deform_conv2d(x, weight, offset, style, padding=1, impl="reference").shape
    torch.Size([2, 4, 16, 16])
    """
    geometry = Geometry(_pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1))
    _check(x, weight, offset, style, mask, geometry)
    native = _use_native(impl, x.device.type)
    dtype = reference.accumulation_dtype(x.dtype)
    offset = offset.to(dtype)
    mask = None if mask is None else mask.to(dtype)
    gain = None
    if style is not None:
        x, weight, gain = _modulate(x, weight, style, demodulate)
    if native:
        # The layout of the matrix product. Converting it here keeps it for the backward.
        weight = weight.contiguous(memory_format=torch.channels_last)
    run = _library.deform_conv2d if native else _autocast_reference
    y = run(x, weight, offset, mask, *geometry)
    return y if gain is None else y * gain.to(y.dtype)[:, :, None, None]


def _modulate(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x * style, weight, demodulation gain [B, O] or None). Scaling x instead of a weight per sample keeps one
    matrix product for the batch; the two are equal because the modulated weight differs by input channel only."""
    if not demodulate:
        return x * style.to(x.dtype)[:, :, None, None], weight, None
    dtype = reference.accumulation_dtype(x.dtype)
    with _no_autocast(x.device.type):
        if _compute_dtype(x) == torch.float16:
            # Demodulation cancels these factors (but for its epsilon), so y and the gradients do not depend on them.
            limit = 1 / math.sqrt(weight[0].numel())
            weight = weight * (limit / _largest(weight, (1, 2, 3)))
            style = style * (1 / _largest(style, (1,))).to(style.dtype)
        energy = weight.to(dtype).square().sum((2, 3))
        gain = (style.to(dtype).square() @ energy.t() + _DEMODULATION_EPS).rsqrt()
        return x * style.to(x.dtype)[:, :, None, None], weight, gain


def _largest(t: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Largest magnitude over `dims`, kept as size 1, never zero, a constant for autograd."""
    return t.detach().abs().amax(dims, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """What the product is computed in: autocast leaves float64 alone, here as elsewhere in torch."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if _in_autocast(device) and x.dtype != torch.float64 else x.dtype


def _in_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _no_autocast(device: str) -> AbstractContextManager:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _autocast_reference(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, *geometry) -> Tensor:
    dtype = _compute_dtype(x)
    with _no_autocast(x.device.type):
        return reference.deform_conv2d(x.to(dtype), weight.to(dtype), offset, mask, *geometry)


def _use_native(impl: str, device: str) -> bool:
    if impl not in IMPLS:
        raise ValueError(f"modulated_deform_conv2d: impl must be one of {', '.join(IMPLS)}; got {impl!r}.")
    if impl == "reference":
        return False
    if torch.compiler.is_exporting():
        return True  # a graph names the op; its kernel is needed where the graph runs
    reason = _library.why_not_native(device)
    if reason is None:
        return True
    if impl == "native":
        raise RuntimeError(
            f"modulated_deform_conv2d: impl='native' cannot run on {device}: {reason} "
            "Run python -m mtm_ops.doctor, or pass impl='reference'."
        )
    _warn_once(device, reason)
    return False


@torch.compiler.assume_constant_result  # called while tracing, not traced
def _warn_once(device: str, reason: str) -> None:
    if device in _warned:
        return
    _warned.add(device)
    warnings.warn(
        f"mtm_ops: using the reference implementation on {device}, which is several times slower: {reason} "
        "Run python -m mtm_ops.doctor for what to install.",
        RuntimeWarning,
        stacklevel=4,
    )


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(
            f"modulated_deform_conv2d: {name} must be an int, or two (y, x), of at least {least}; got {value!r}."
        )
    return pair


def _fail(name: str, rule: str, got: object, error: type[Exception] = ValueError) -> None:
    raise error(f"modulated_deform_conv2d: {name} must {rule}; got {got}.")


def _check(
    x: Tensor, weight: Tensor, offset: Tensor, style: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> None:
    """Every rule on the arguments, each error with what was expected and what came."""
    if x.ndim != 4 or 0 in x.shape[1:]:
        _fail("x", "be [B, C, H, W] with C, H and W of at least 1", list(x.shape))
    B, C, H, W = x.shape
    if weight.ndim != 4 or weight.shape[1] != C or 0 in weight.shape:
        _fail("weight", f"be [O, {C}, kh, kw] for x of {C} channels", list(weight.shape))
    kh, kw = weight.shape[2:]
    Ho, Wo = reference.output_size((H, W), (kh, kw), *geometry)
    if Ho < 1 or Wo < 1:
        _fail("x", f"be large enough for a {kh}x{kw} kernel with {geometry}, whose output would be {Ho}x{Wo}", [H, W])
    per_group = 2 * kh * kw
    if offset.ndim != 4 or offset.shape[1] == 0 or offset.shape[1] % per_group:
        got = offset.shape[1] if offset.ndim == 4 else list(offset.shape)
        _fail("offset", f"have 2*G*kh*kw channels, a multiple of {per_group} for this {kh}x{kw} weight", got)
    G = offset.shape[1] // per_group
    if C % G:
        _fail("offset", f"have a number of groups that divides x's {C} channels", f"{G} groups")
    if offset.shape != (B, G * per_group, Ho, Wo):
        _fail("offset", f"be {[B, G * per_group, Ho, Wo]}, one pair per tap and output pixel", list(offset.shape))
    if mask is not None and mask.shape != (B, G * kh * kw, Ho, Wo):
        _fail("mask", f"be {[B, G * kh * kw, Ho, Wo]}, one factor per tap and output pixel", list(mask.shape))
    if style is not None and style.shape != (B, C):
        _fail("style", f"be {[B, C]}, one factor per sample and input channel", list(style.shape))
    _check_types(x, weight, {"offset": offset, "style": style, "mask": mask})


def _check_types(x: Tensor, weight: Tensor, others: dict[str, Tensor | None]) -> None:
    supported = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if x.dtype not in supported:
        _fail("x", "be float32, float64, float16 or bfloat16", x.dtype, TypeError)
    if weight.dtype != x.dtype and not _in_autocast(x.device.type):
        _fail("weight", f"have x's dtype, {x.dtype}", weight.dtype, TypeError)
    for name, t in {"weight": weight, **others}.items():
        if t is None:
            continue
        if not t.is_floating_point():
            _fail(name, "be floating point", t.dtype, TypeError)
        if t.device != x.device:
            _fail(name, f"be on x's device, {x.device}", t.device)
