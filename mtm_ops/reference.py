"""The specification: modulated deformable convolution in plain torch.

Every other implementation is tested against this file. It runs on any device, is differentiable any number of
times, and trades memory for clarity: it stores the columns, `kh*kw` times the input.
"""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """dtype of coordinates, bilinear weights and sums for an input of `dtype`: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def output_size(
    input_size: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(Ho, Wo) of a convolution over an input of (H, W); zero or less if the kernel does not fit."""
    ho, wo = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    )
    return ho, wo


def _tap_positions(
    offset: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Where each tap samples: (y, x) in input pixels, each [B, G, kh*kw, Ho, Wo]; the paper's p + p_i + offset_i."""
    B, channels, Ho, Wo = offset.shape
    kh, kw = kernel_size
    offset = offset.reshape(B, channels // (2 * kh * kw), kh * kw, 2, Ho, Wo)

    def steps(n: int, step: int) -> Tensor:
        return torch.arange(n, dtype=offset.dtype, device=offset.device) * step

    tap_y = steps(kh, dilation[0]).repeat_interleave(kw).view(-1, 1, 1)
    tap_x = steps(kw, dilation[1]).repeat(kh).view(-1, 1, 1)
    out_y = (steps(Ho, stride[0]) - padding[0]).view(1, -1, 1)
    out_x = (steps(Wo, stride[1]) - padding[1]).view(1, 1, -1)
    return (out_y + tap_y) + offset[:, :, :, 0], (out_x + tap_x) + offset[:, :, :, 1]


def sample_columns(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """S(x, offset, mask): what the kernel's taps see, bilinearly interpolated.

    Args:
        x: [B, C, H, W]. Outside the image x is 0, so a corner there contributes nothing.
        offset: `[B, 2*G*kh*kw, Ho, Wo]`, (dy, dx) per tap in input pixels, in the accumulation dtype.
        mask: `[B, G*kh*kw, Ho, Wo]` or None, the factor of each tap.

    Returns:
        `[B, C, kh*kw, Ho*Wo]` in x's dtype. A tap at a non-finite position, or a pixel or more outside, samples 0 and
        has no gradient. At whole pixels the offset's gradient is the one-sided gradient towards larger coordinates.
    """
    B, C, H, W = x.shape
    Ho, Wo = offset.shape[2:]
    taps, places = kernel_size[0] * kernel_size[1], Ho * Wo
    y_px, x_px = _tap_positions(offset, kernel_size, stride, padding, dilation)
    G = y_px.shape[1]
    inside = (y_px > -1) & (y_px < H) & (x_px > -1) & (x_px < W)  # False for NaN
    y_px, x_px = (torch.where(inside, v, 0) for v in (y_px, x_px))
    y0, x0 = y_px.detach().floor(), x_px.detach().floor()
    fy, fx = y_px - y0, x_px - x0

    pixels = x.reshape(B, G, C // G, H * W).to(offset.dtype)
    columns = pixels.new_zeros(())
    for iy, wy in ((y0, 1 - fy), (y0 + 1, fy)):
        for ix, wx in ((x0, 1 - fx), (x0 + 1, fx)):
            seen = inside & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
            index = torch.where(seen, iy * W + ix, 0).long().reshape(B, G, 1, taps * places)
            value = pixels.gather(3, index.expand(-1, -1, C // G, -1)).view(B, G, C // G, taps, Ho, Wo)
            columns = columns + torch.where(seen.unsqueeze(2), value, 0) * (wy * wx).unsqueeze(2)
    if mask is not None:
        columns = columns * mask.reshape(B, G, 1, taps, Ho, Wo)
    return columns.reshape(B, C, taps, places).to(x.dtype)


def deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """y(p) = sum_i weight_i * mask_i * x(p + p_i + offset_i): the paper's Eq. (2), with DCNv2's mask.

    Shapes as in `mtm_ops.modulated_deform_conv2d`; offset and mask in the accumulation dtype. Returns [B, O, Ho, Wo].
    """
    O, width, kh, kw = weight.shape
    (B, C), (Ho, Wo) = x.shape[:2], offset.shape[2:]
    columns = sample_columns(x, offset, mask, (kh, kw), stride, padding, dilation)
    n = C // width  # weight groups
    y = weight.reshape(n, O // n, width * kh * kw) @ columns.reshape(B, n, width * kh * kw, Ho * Wo)
    return y.view(B, O, Ho, Wo)
