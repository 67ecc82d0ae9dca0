"""Inputs, an independent oracle and comparisons that the op tests share. Only `Case.run` calls the code under test.

Sizes differ wherever possible, so that a swapped axis fails a test: input 5x4, kernel 3x2, stride 2x1, padding 1x0,
dilation 2x1, hence output 2x3.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtm_ops import modulated_deform_conv2d

NAMES = ("x", "weight", "offset", "style", "mask")
GEOMETRY: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1)}
DEMODULATION_EPS = 1e-8  # StyleGAN2's value

# Largest error allowed, relative to the largest value. float64 and float32: 64 rounding steps, for sums of at most a
# few thousand terms. Half types: 4 rounding steps, because they round four times (modulated x, columns, weight, y) and
# sum in float32.
TOLERANCE = {
    torch.float64: 64 * 2.0**-52,
    torch.float32: 64 * 2.0**-23,
    torch.float16: 4 * 2.0**-10,
    torch.bfloat16: 4 * 2.0**-7,
}


@dataclass(frozen=True)
class Case:
    """The arguments of one `modulated_deform_conv2d` call."""

    x: Tensor
    weight: Tensor
    offset: Tensor
    style: Tensor | None = None
    mask: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        return {name: t for name in NAMES if (t := getattr(self, name)) is not None}

    def run(self, impl: str) -> Tensor:
        return modulated_deform_conv2d(
            self.x, self.weight, self.offset, self.style, mask=self.mask, impl=impl, **self.options
        )

    def leaves(self, needs: set[str] | None = None) -> "Case":
        """A copy whose tensors in `needs` (by default all) are leaves that require a gradient."""
        return self.map(lambda name, t: t.detach().requires_grad_(needs is None or name in needs))

    def to(self, dtype: torch.dtype) -> "Case":
        """x, weight and style in `dtype`; offset and mask in the dtype that the op uses for them."""
        steering = torch.float64 if dtype == torch.float64 else torch.float32
        kinds = {"offset": steering, "mask": steering}
        return self.map(lambda name, t: t.to(kinds.get(name, dtype)))

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "Case":
        """A copy in which change(name, tensor) replaces every tensor."""
        changed: dict[str, Any] = {n: change(n, t) for n, t in self.tensors().items()}
        return replace(self, **changed)


def offset_between_pixels(shape: tuple[int, ...], generator: torch.Generator, reach: int = 2) -> Tensor:
    """float64 offsets up to `reach` + 1 px, fractional parts in [0.15, 0.85]: away from the kinks at whole pixels."""
    whole = torch.randint(-reach, reach + 1, shape, generator=generator)
    return whole + 0.15 + 0.7 * torch.rand(shape, generator=generator, dtype=torch.float64)


def sample_inputs(
    B: int = 2,
    C: int = 4,
    O: int = 3,
    size: tuple[int, int] = (5, 4),
    kernel: tuple[int, int] = (3, 2),
    groups: int = 1,
    weight_groups: int = 1,
    style: bool = True,
    mask: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **options: Any,
) -> Case:
    """The inputs that all op tests start from: values of order 1, offsets away from whole pixels."""
    options = {**GEOMETRY, **options}
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    Ho, Wo = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, options["stride"], options["padding"], options["dilation"], strict=True)
    )
    taps = kernel[0] * kernel[1]
    case = Case(
        x=randn(B, C, *size),
        weight=randn(O, C // weight_groups, *kernel),
        offset=offset_between_pixels((B, 2 * groups * taps, Ho, Wo), g),
        style=randn(B, C) + 2 if style else None,
        mask=torch.rand((B, groups * taps, Ho, Wo), generator=g, dtype=torch.float64) * 2 if mask else None,
        options=options,
    )
    return case.to(dtype)


def one_by_one(**given: Any) -> Case:
    """sample_inputs whose stride, padding and dilation default to 1, 0 and 1."""
    return sample_inputs(**{"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), **given})


def bilinear(image: np.ndarray, y: float, x: float) -> float:
    """Sample image [H, W] at (y, x) in px. Corners outside count as 0; a non-finite position gives 0."""
    if not (math.isfinite(y) and math.isfinite(x)):
        return 0.0
    H, W = image.shape
    y0, x0 = math.floor(y), math.floor(x)
    total = 0.0
    for iy in (y0, y0 + 1):
        for ix in (x0, x0 + 1):
            if 0 <= iy < H and 0 <= ix < W:
                total += (1 - abs(y - iy)) * (1 - abs(x - ix)) * float(image[iy, ix])
    return total


def oracle(case: Case) -> np.ndarray:
    """The op as seven plain loops in float64, with the textbook's modulated weight for each sample."""
    x, weight, offset = (t.detach().double().numpy() for t in (case.x, case.weight, case.offset))
    style = None if case.style is None else case.style.detach().double().numpy()
    mask = None if case.mask is None else case.mask.detach().double().numpy()
    (stride_y, stride_x), (pad_y, pad_x), (dil_y, dil_x) = (
        case.options[name] for name in ("stride", "padding", "dilation")
    )
    (B, C, _, _), (O, _, kh, kw), (_, channels, Ho, Wo) = x.shape, weight.shape, offset.shape
    per_group = C // (channels // (2 * kh * kw))
    C_w, O_w = weight.shape[1], O // (C // weight.shape[1])  # channels per weight group
    y = np.zeros((B, O, Ho, Wo))
    for b in range(B):
        w = textbook_weight(weight, None if style is None else style[b], case.options.get("demodulate", True))
        for o, oy, ox, i, ky, kx in itertools.product(*map(range, (O, Ho, Wo, C_w, kh, kw))):
            c = o // O_w * C_w + i
            tap = (c // per_group) * kh * kw + ky * kw + kx
            at_y = oy * stride_y - pad_y + ky * dil_y + offset[b, 2 * tap, oy, ox]
            at_x = ox * stride_x - pad_x + kx * dil_x + offset[b, 2 * tap + 1, oy, ox]
            factor = 1.0 if mask is None else mask[b, tap, oy, ox]
            y[b, o, oy, ox] += w[o, i, ky, kx] * factor * bilinear(x[b, c], at_y, at_x)
    return y


def textbook_weight(weight: np.ndarray, style: np.ndarray | None, demodulate: bool) -> np.ndarray:
    """w'' of Karras et al. 2020, Eqs. (1) and (3), for one sample."""
    if style is None:
        return weight
    groups = len(style) // weight.shape[1]
    factors = np.repeat(style.reshape(groups, -1), len(weight) // groups, axis=0)  # [O, C/groups]
    modulated = weight * factors[:, :, None, None]
    if demodulate:
        modulated = modulated / np.sqrt((modulated**2).sum((1, 2, 3), keepdims=True) + DEMODULATION_EPS)
    return modulated


def relative_error(got: Tensor, want: Tensor) -> float:
    """The largest difference divided by the largest expected value (by 1e-30 if all are 0)."""
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    if want.numel() == 0:
        return 0.0
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))


def assert_close(got: Tensor, want: Tensor, dtype: torch.dtype, what: str = "result", factor: float = 1) -> None:
    """Check that the error is within `factor` times the TOLERANCE of `dtype`."""
    error, limit = relative_error(got, want), factor * TOLERANCE[dtype]
    assert error <= limit, f"{what}: relative error {error:.3g} is above {limit:.3g}"


def cotangent(like: Tensor, seed: int = 1) -> Tensor:
    """Reproducible normal values with the shape, dtype and device of `like`."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=g, dtype=torch.float64).to(like)


def first_order(case: Case, impl: str, needs: set[str] | None = None) -> dict[str, Tensor]:
    """y, and the gradients of a fixed random weighted sum of y by every tensor (or by those in `needs`)."""
    case = case.leaves(needs)
    wanted = {n: t for n, t in case.tensors().items() if t.requires_grad}
    y = case.run(impl)
    return {
        "y": y.detach(),
        **dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), cotangent(y)), strict=True)),
    }


def second_order(
    case: Case, impl: str, needs: set[str] | None = None, through: set[str] | None = None
) -> dict[str, Tensor | None]:
    """Gradients by every tensor and by grad_y of a fixed random weighted sum of the `through` first-order gradients."""
    case = case.leaves(needs)
    wanted = {n: t for n, t in case.tensors().items() if t.requires_grad}
    y = case.run(impl)
    grad_y = cotangent(y).requires_grad_()
    chosen = [t for n, t in wanted.items() if through is None or n in through]
    grads = torch.autograd.grad(y, chosen, grad_y, create_graph=True)
    scalar = torch.stack([(g * cotangent(g, 10 + i)).sum() for i, g in enumerate(grads)]).sum()
    ends = {**wanted, "grad_y": grad_y}
    found = torch.autograd.grad(scalar, list(ends.values()), allow_unused=True)
    return dict(zip(ends, found, strict=True))
