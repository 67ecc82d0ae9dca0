"""The rules on the op's arguments, shared by the public function and the registered ops, real and fake.

The kernels read memory according to these shapes, so every argument is checked here first.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from .reference import output_size

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Geometry(NamedTuple):
    """Stride, padding and dilation, (y, x) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


LEAST = Geometry((1, 1), (0, 0), (1, 1))
MOST = 2**31 - 1  # so that no index a kernel computes exceeds 64 bits


def fail(function: str, name: str, rule: str, got: object, error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"{function}: {name} must {rule}; got {got}.")


def check_pair(function: str, name: str, pair: Sequence[int], least: int, got: object) -> None:
    if len(pair) != 2 or not all(least <= v <= MOST for v in pair):
        fail(function, name, f"be an int, or two (y, x), from {least} to {MOST}", repr(got))


def check_shapes(
    function: str,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Returns (Ho, Wo). Raises ValueError, which says what was expected and what was given."""
    if x.ndim != 4 or 0 in x.shape[1:]:
        fail(function, "x", "be [B, C, H, W] with C, H and W of at least 1", list(x.shape))
    B, C, H, W = x.shape
    if weight.ndim != 4 or 0 in weight.shape or C % weight.shape[1] or weight.shape[0] % (C // weight.shape[1]):
        rule = f"be [O, {C}/n, kh, kw] for x of {C} channels, the number n of weight groups dividing both {C} and O"
        fail(function, "weight", rule, list(weight.shape))
    kh, kw = weight.shape[2:]
    Ho, Wo = output_size((H, W), (kh, kw), stride, padding, dilation)
    if Ho < 1 or Wo < 1:
        geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation))  # type: ignore[arg-type]
        rule = f"be large enough for a {kh}x{kw} kernel with {geometry}, whose output would be {Ho}x{Wo}"
        fail(function, "x", rule, [H, W])
    per_group = 2 * kh * kw
    if offset.ndim != 4 or offset.shape[1] == 0 or offset.shape[1] % per_group:
        got = offset.shape[1] if offset.ndim == 4 else list(offset.shape)
        rule = f"have 2*G*kh*kw channels, a multiple of {per_group} for this {kh}x{kw} weight"
        fail(function, "offset", rule, got)
    G = offset.shape[1] // per_group
    if C % G:
        fail(function, "offset", f"have a number of groups that divides x's {C} channels", f"{G} groups")
    if offset.shape != (B, G * per_group, Ho, Wo):
        rule = f"be {[B, G * per_group, Ho, Wo]}, one pair per tap and output pixel"
        fail(function, "offset", rule, list(offset.shape))
    if mask is not None and mask.shape != (B, G * kh * kw, Ho, Wo):
        rule = f"be {[B, G * kh * kw, Ho, Wo]}, one factor per tap and output pixel"
        fail(function, "mask", rule, list(mask.shape))
    return Ho, Wo


def check_types(function: str, x: Tensor, weight: Tensor, any_float: dict[str, Tensor | None], mixed: bool) -> None:
    """Checks dtypes and devices; `mixed` allows the weight's dtype to differ from x's, as under autocast."""
    if x.dtype not in DTYPES:
        fail(function, "x", "be float32, float64, float16 or bfloat16", x.dtype, TypeError)
    if weight.dtype != x.dtype and not mixed:
        fail(function, "weight", f"have x's dtype, {x.dtype}", weight.dtype, TypeError)
    for name, t in {"weight": weight, **any_float}.items():
        if t is None:
            continue
        if t.dtype not in DTYPES:
            fail(function, name, "be floating point, of 16 to 64 bits", t.dtype, TypeError)
        if t.device != x.device:
            fail(function, name, f"be on x's device, {x.device}", t.device)


def _check_like(function: str, name: str, t: Tensor | None, like: Tensor, what: str, shape: Sequence[int]) -> None:
    if t is None:
        return
    if t.shape != tuple(shape):
        fail(function, name, f"have the shape of {what}, {list(shape)}", list(t.shape))
    if t.dtype != like.dtype:
        fail(function, name, f"have the dtype of {what}, {like.dtype}", t.dtype, TypeError)
    if t.device != like.device:
        fail(function, name, f"be on x's device, {like.device}", t.device)


def check_forward(x, weight, offset, mask, stride, padding, dilation, *, name="deform_conv2d") -> tuple[int, int]:
    """Checks the arguments of the registered op; returns (Ho, Wo)."""
    function = f"mtm_ops::{name}"
    for which, pair, least in zip(Geometry._fields, (stride, padding, dilation), LEAST, strict=True):
        check_pair(function, which, pair, least[0], list(pair))
    size = check_shapes(function, x, weight, offset, mask, stride, padding, dilation)
    check_types(function, x, weight, {"offset": offset, "mask": mask}, mixed=False)
    return size


def check_backward(
    grad_y, x, weight, offset, mask, stride, padding, dilation, needs, *, name="deform_conv2d_backward", count=4
) -> None:
    Ho, Wo = check_forward(x, weight, offset, mask, stride, padding, dilation, name=name)
    _check_like(f"mtm_ops::{name}", "grad_y", grad_y, x, "y", (x.shape[0], weight.shape[0], Ho, Wo))
    if len(needs) != count:
        fail(f"mtm_ops::{name}", "needs", f"have {count} entries, one per gradient", len(needs))


def check_double_backward(
    gg_x, gg_weight, gg_offset, gg_mask, grad_y, x, weight, offset, mask, stride, padding, dilation, needs
) -> None:
    name = "deform_conv2d_double_backward"
    check_backward(grad_y, x, weight, offset, mask, stride, padding, dilation, needs, name=name, count=5)
    if mask is None and gg_mask is not None:
        fail(f"mtm_ops::{name}", "gg_mask", "be None where there is no mask", list(gg_mask.shape))
    pairs = {"x": (gg_x, x), "weight": (gg_weight, weight), "offset": (gg_offset, offset), "mask": (gg_mask, mask)}
    for of, (gg, like) in pairs.items():
        if gg is not None:
            _check_like(f"mtm_ops::{name}", f"gg_{of}", gg, like, of, like.shape)
