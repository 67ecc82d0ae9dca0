"""The public function: argument checks, modulation and demodulation around the deformable convolution."""

import operator
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from . import _demodulation, _launch, _library, reference
from ._checks import LEAST, Geometry, check_pair, check_shapes, check_types, fail

NAME = "modulated_deform_conv2d"
IMPLS = ("auto", "native", "reference")
_warned: set[str] = set()


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
        weight: [O, C/n, kh, kw], of x's dtype. n, the number of weight groups (a grouped convolution: output channels
            `O/n*i` to `O/n*(i+1)` see only input channels `C/n*i` to `C/n*(i+1)`), is inferred and must divide C and O.
        offset: `[B, 2*G*kh*kw, Ho, Wo]` in input pixels, (dy, dx) per tap, taps row-major: torchvision's order. G,
            the number of offset groups (channel ranges with separate offsets), is inferred and must divide C.
            Offset groups and weight groups are independent of each other.
        style: [B, C] factors of the input channels, or None: neither modulation nor demodulation. With weight groups,
            the norm of an output channel is over its own C/n input channels. To fold the batch into groups as StyleGAN
            does, pass x `[1, B*C, H, W]`, the samples' modulated weights `[B*O, C, kh, kw]` and no style: n = G = B.
        mask: `[B, G*kh*kw, Ho, Wo]` factors of the taps, or None.
        stride: stride of the convolution, int or (y, x).
        padding: zeros around the image, int or (y, x).
        dilation: int or (y, x).
        demodulate: divide by the norm of the modulated weight; has an effect only with a style.
        impl: "native" (the compiled kernel), "reference" (plain torch), or "auto": native if it can be built, else the
            reference, with one warning that says why. With "native" and "auto", torch.export records the registered op
            even if the kernel cannot be built.

    Returns:
        [B, O, Ho, Wo] in x's dtype (the autocast dtype under autocast) and memory format.

    dtypes: float32, float64, float16, bfloat16. Offsets and masks may differ from x: they are converted to float32
        (float64 for float64 x), and so are all sums over corners. On CUDA, float32 products use TF32 where torch's
        convolutions do (torch.backends.cudnn.allow_tf32, by default True). In float16, weight and style are scaled to
        at most 1 before the matmul, so that it cannot overflow; demodulation cancels this.
    Border: a corner outside the image is 0. A tap at a non-finite position, or a pixel or more outside, samples 0 and
        has no gradient. A corner of weight 0 is multiplied, not skipped, so NaN and infinity in x spread to
        neighbouring samples.
    Gradients: "native" to the second order, for x, weight, offset, style and mask; a third raises RuntimeError,
        forward mode NotImplementedError; torch.func's transforms do not support it. "reference" to any order.
        torch.autograd.functional.hvp needs the third order (it differentiates a double backward). Use vhp, which
        needs only the second and gives the same for a symmetric Hessian. At whole pixels the offset's gradient is the

        one-sided gradient towards larger coordinates. Gradients that a pass does not request are not computed; see
        `no_weight_gradients`.
    Determinism: the same bits on every call; on the CPU, sampling and its gradients are also the same for any number
        of threads. On CUDA, torch's matmuls require CUBLAS_WORKSPACE_CONFIG under
        torch.use_deterministic_algorithms(True).
    Memory: "native" never stores all columns at once, forward or backward; "reference" does. On CUDA the columns take
        at most 80 MiB (or those of 64 output pixels). The index for x's gradient takes 48 bytes per output pixel, tap
        and group, for 16 MiB or one chunk of columns, whichever is more, and up to 64 bytes per input pixel and group.
    Errors: ValueError for shapes, TypeError for dtypes, RuntimeError if impl="native" is not available. All say what
        was expected and what was given.

    Examples:
        >>> x, weight = torch.randn(2, 8, 16, 16), torch.randn(4, 8, 3, 3)
        >>> offset, style = torch.randn(2, 18, 16, 16), torch.randn(2, 8)
        >>> modulated_deform_conv2d(x, weight, offset, style, padding=1, impl="reference").shape
        torch.Size([2, 4, 16, 16])
    """
    given = zip(Geometry._fields, (stride, padding, dilation), LEAST, strict=True)
    geometry = Geometry(*(_pair(name, value, least[0]) for name, value, least in given))
    _check(x, weight, offset, style, mask, geometry)
    native = _use_native(impl, x.device)
    dtype = reference.accumulation_dtype(x.dtype)
    offset = offset.to(dtype)
    mask = None if mask is None else mask.to(dtype)
    gain = None
    if style is not None:
        x, weight, gain = _modulate(x, weight, style, demodulate, native)
    if native and (torch.is_grad_enabled() or torch.jit.is_tracing()):  # a traced graph must not depend on grad mode
        # The layout that the backward's matrix products need; converted here, it is saved for them.
        weight = weight.contiguous(memory_format=torch.channels_last)
    run = _library.deform_conv2d if native else _autocast_reference
    y = run(x, weight, offset, mask, *geometry)
    return y if gain is None else y * gain.to(y.dtype)[:, :, None, None]


def _modulate(
    x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, native: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x * style, weight, demodulation gain [B, O] or None). Scaling x instead of a weight per sample keeps one
    matrix product for the batch; both give the same result because the style scales input channels only."""
    if not demodulate:
        return x * style.to(x.dtype)[:, :, None, None], weight, None
    dtype = reference.accumulation_dtype(x.dtype)
    # Exported graphs contain torch's own operators. Under autocast the weight's precision may differ from the sums'.
    fused = native and _launch.kernels_of(x.device) == "cuda" and not _is_exporting()
    fused = fused and (weight.dtype == torch.float64) == (dtype == torch.float64)
    with _no_autocast(x.device.type):
        weight, style, gain = (_demodulation.native if fused else _demodulation.reference)(
            weight, style, dtype, _compute_dtype(x) == torch.float16
        )
        return x * style.to(x.dtype)[:, :, None, None], weight, gain


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the matrix product: autocast leaves float64 unchanged, here as elsewhere in torch."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if _in_autocast(device) and x.dtype != torch.float64 else x.dtype


@_library.constant_while_tracing  # Dynamo of torch 2.11 cannot trace the calls in it
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


@_library.constant_while_tracing  # Dynamo of torch 2.11 returns True in every torch.compile
def _is_exporting() -> bool:
    return torch.compiler.is_exporting()


def _in_autocast(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def _no_autocast(device: str) -> AbstractContextManager:
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


def _autocast_reference(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, *geometry) -> Tensor:
    dtype = _compute_dtype(x)
    with _no_autocast(x.device.type):
        return reference.deform_conv2d(x.to(dtype), weight.to(dtype), offset, mask, *geometry)


def _use_native(impl: str, device: torch.device) -> bool:
    if impl not in IMPLS:
        fail(NAME, "impl", f"be one of {', '.join(IMPLS)}", repr(impl))
    if impl == "reference":
        return False
    if _is_exporting():
        return True  # a graph only names the op; the kernel is needed where the graph runs
    reason = _library.why_not_native(device.type, device.index)
    if reason is None:
        return True
    if impl == "native":
        raise RuntimeError(
            f"modulated_deform_conv2d: impl='native' cannot run on {device}: {reason} "
            "Run python -m mtm_ops.doctor, or pass impl='reference'."
        )
    _warn_once(device.type, reason)
    return False


@_library.constant_while_tracing  # called while tracing, not traced
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
    """(y, x) as ints; NumPy's integers are accepted too."""
    values = tuple(value) if isinstance(value, list | tuple) else (value, value)
    try:
        pair = tuple(map(operator.index, values))
    except TypeError:
        pair = ()
    check_pair(NAME, name, pair, least, value)
    return pair  # type: ignore[return-value]


def _check(
    x: Tensor, weight: Tensor, offset: Tensor, style: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> None:
    """Checks every rule on the arguments; each error says what was expected and what was given."""
    for name, t in {"x": x, "weight": weight, "offset": offset, "style": style, "mask": mask}.items():
        if not isinstance(t, Tensor) and (t is not None or name in ("x", "weight", "offset")):
            fail(NAME, name, "be a torch.Tensor", f"{type(t).__module__}.{type(t).__qualname__}", TypeError)
    check_shapes(NAME, x, weight, offset, mask, *geometry)
    if style is not None and style.shape != x.shape[:2]:
        rule = f"be {list(x.shape[:2])}, one factor per sample and input channel"
        fail(NAME, "style", rule, list(style.shape))
    others = {"offset": offset, "style": style, "mask": mask}
    check_types(NAME, x, weight, others, mixed=_in_autocast(x.device.type))
