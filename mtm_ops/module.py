"""The Modulated Transformation Module: the offsets of a layer's convolution, from its input and the latent code.

StyleGAN's persistence pickles the source of this file into every snapshot. So it imports nothing from this package at
the top, and has its own version of the op for machines on which mtm_ops is not installed.
"""

import contextlib
import functools
import math
import numbers
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = {"offset": 2, "offset+mask": 3}  # channels per tap: (dy, dx), and DCNv2's mask


class ModulatedTransformation(nn.Module):
    """offset = ModConv(x, w), Eq. (4) of arXiv 2308.15472: where each tap of a convolution samples.

    A modulated convolution of the layer's input `x`, without demodulation, with its own affine map from the latent `w`.
    Weight and bias start at zero, so an untrained module returns offsets of exactly 0 (and masks of exactly 1), and the
    convolution that uses them equals the plain one. Demodulation is left out because it would divide by the norm of
    that zero weight.

    Construction does not change the global random stream: with the same seed, a network has the same other parameters
    with and without the module.

    Args:
        in_channels: C, channels of x.
        w_dim: length of the latent w.
        kernel_size: kernel size of the deformable convolution, and of the offset convolution.
        head: "offset" (the paper's text; 18 channels for 3x3) or "offset+mask" (27; mask = 2*sigmoid, DCNv2).
        padding: padding of the deformable convolution; kernel_size // 2 if None.

    Shapes:
        x [B, C, H, W] of any floating dtype; w [B, w_dim]. Returns offset `[B, 2*k*k, Ho, Wo]` in input pixels,
        (dy, dx) per tap, taps row-major, and mask `[B, k*k, Ho, Wo]` or None. Both are float32 (float64 for float64
        x), also under autocast: at 32, float16 has steps of 1/32 px. For x in half types on CUDA, x times style and
        the weight are rounded to 11 significant bits (TF32) before they are multiplied; sums are float32.

    Errors: ValueError for an unknown head, a size below 1, or shapes that do not fit; TypeError if an input is not a
        tensor.

    Examples:
        >>> head = ModulatedTransformation(in_channels=8, w_dim=4)
        >>> offset, mask = head(torch.randn(2, 8, 5, 5), torch.randn(2, 4))
        >>> offset.shape, mask
        (torch.Size([2, 18, 5, 5]), None)
    """

    def __init__(
        self, in_channels: int, w_dim: int, kernel_size: int = 3, head: str = "offset", *, padding: int | None = None
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"ModulatedTransformation: head must be one of {', '.join(HEADS)}; got {head!r}.")
        for name, size in {"in_channels": in_channels, "w_dim": w_dim, "kernel_size": kernel_size}.items():
            if not isinstance(size, numbers.Integral) or size < 1:
                raise ValueError(f"ModulatedTransformation: {name} must be an int of at least 1; got {size!r}.")
        self.in_channels, self.w_dim, self.kernel_size, self.head = in_channels, w_dim, kernel_size, head
        self.padding = kernel_size // 2 if padding is None else padding
        self.strength = 1.0  # see offsets_scaled
        self.taps = kernel_size * kernel_size
        channels = HEADS[head] * self.taps
        self.affine_bias = nn.Parameter(torch.ones(in_channels))
        with torch.random.fork_rng(devices=[]):  # parameters are drawn on the CPU, so only its stream is forked
            drawn = torch.randn(in_channels, w_dim, device="cpu", dtype=self.affine_bias.dtype)
        self.affine_weight = nn.Parameter(drawn.to(self.affine_bias.device))
        self.weight = nn.Parameter(torch.zeros(channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels))
        # Equalised learning rate (Karras et al. 2018): an optimiser step changes the output equally at every width.
        self.affine_gain = 1 / math.sqrt(w_dim)
        self.weight_gain = 1 / math.sqrt(in_channels * self.taps)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        for name, t in {"x": x, "w": w}.items():
            if not isinstance(t, Tensor):
                raise TypeError(f"ModulatedTransformation: {name} must be a torch.Tensor; got {type(t).__name__}.")
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"ModulatedTransformation: x must be [B, {self.in_channels}, H, W]; got {list(x.shape)}. "
                "Pass the input of the layer's convolution."
            )
        if w.ndim != 2 or w.shape != (x.shape[0], self.w_dim):
            raise ValueError(
                f"ModulatedTransformation: w must be [{x.shape[0]}, {self.w_dim}], a latent per sample; "
                f"got {list(w.shape)}."
            )
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        kind = x.device.type
        with torch.autocast(kind, enabled=False) if kind != "meta" else contextlib.nullcontext():
            return self._predict(x, w.to(dtype))

    def _predict(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        dtype = w.dtype
        style = F.linear(w, self.affine_weight.to(dtype) * self.affine_gain, self.affine_bias.to(dtype))
        weight = self.weight.to(dtype) * self.weight_gain
        scaled = x * style[:, :, None, None]  # in the style's dtype; a half x is not copied, and is saved as it is
        if (conv2d := _half_conv2d(x)) is not None:
            out = conv2d(scaled, weight, self.padding) + self.bias.to(dtype)[:, None, None]
        else:
            out = F.conv2d(scaled, weight, self.bias.to(dtype), padding=self.padding)
        offset, gate = out[:, : 2 * self.taps], out[:, 2 * self.taps :]
        mask = 2 * torch.sigmoid(gate) if self.head == "offset+mask" else None
        if self.strength == 0:
            return torch.zeros_like(offset), None  # plain convolution, whatever the parameters are
        if self.strength != 1:
            offset = offset * self.strength
            mask = None if mask is None else 1 + (mask - 1) * self.strength
        return offset, mask

    def at(self, w: Tensor) -> Callable[..., Tensor]:
        """A deformable `modulated_conv2d` for the latent w [B, w_dim]: assign it to that name in a layer's forward.

        It accepts the keywords of StyleGAN2's function (weight, styles, noise) and of StyleGAN3's (w, s, input_gain),
        and computes the same, but samples its input at the module's offsets. The offsets are computed from what the
        convolution sees: x times `input_gain`.

        Errors: ValueError if the call resamples, or if its padding is not the module's.

        Examples:
            >>> mtm, x = ModulatedTransformation(8, 4), torch.randn(2, 8, 5, 5)
            >>> modulated_conv2d = mtm.at(torch.randn(2, 4))
            >>> modulated_conv2d(x=x, weight=torch.randn(6, 8, 3, 3), styles=torch.ones(2, 8), padding=1).shape
            torch.Size([2, 6, 5, 5])
        """
        return functools.partial(self._convolve, w)

    def _convolve(
        self,
        latent: Tensor,
        *,
        x: Tensor,
        weight: Tensor | None = None,
        styles: Tensor | None = None,
        w: Tensor | None = None,
        s: Tensor | None = None,
        padding: int = 0,
        demodulate: bool = True,
        input_gain: Tensor | None = None,
        noise: Tensor | None = None,
        up: int = 1,
        down: int = 1,
        **_how: Any,  # resample_filter, flip_weight, fused_modconv: they change how the host computes, not the result
    ) -> Tensor:
        weight, style = (weight, styles) if w is None else (w, s)
        assert weight is not None
        assert style is not None
        if (padding, up, down) != (self.padding, 1, 1):
            raise ValueError(
                f"ModulatedTransformation: the convolution must have padding {self.padding} and not resample; got "
                f"padding={padding}, up={up}, down={down}. Build the module with the padding of its convolution."
            )
        if input_gain is not None:
            # A 0-d gain multiplies half types in float32, like the host's multiplication of the weight.
            x = x * (input_gain.expand(x.shape[0], -1)[:, :, None, None].to(x.dtype) if input_gain.ndim else input_gain)
        if demodulate:
            # As in the hosts before a half-precision matmul; demodulation cancels these factors.
            weight, style = _unit(weight, (1, 2, 3)), _unit(style, (1,))
        offset, mask = self(x, latent)
        y = _deform_conv2d()(
            x, weight.to(x.dtype), offset, style, mask=mask, padding=self.padding, demodulate=demodulate
        )
        return y if noise is None else y + noise.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, w_dim={self.w_dim}, kernel_size={self.kernel_size}, head={self.head!r}"


def _unit(t: Tensor, dims: tuple[int, ...]) -> Tensor:
    """t scaled to a mean square of 1 over `dims`. The factor is a constant for autograd: demodulation cancels it."""
    tiny = torch.finfo(t.dtype).tiny
    return t * t.detach().square().mean(dims, keepdim=True).clamp_min(tiny).rsqrt()


def _deform_conv2d() -> Callable[..., Tensor]:
    """mtm_ops.modulated_deform_conv2d, or this file's version if mtm_ops is not installed."""
    try:
        from mtm_ops import modulated_deform_conv2d
    except ModuleNotFoundError as error:
        if error.name != "mtm_ops":
            raise
        _warn_once()
        return _sampled_conv2d
    return modulated_deform_conv2d


def _half_conv2d(x: Tensor) -> Callable[..., Tensor] | None:
    """mtm_ops' convolution of half-precision values with float32 sums. None if x is not a half-precision CUDA tensor,
    mtm_ops is not installed, or the network is being exported: exported graphs contain torch's own operators."""
    if not (x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)) or torch.compiler.is_exporting():
        return None
    try:
        from mtm_ops._half_conv import half_conv2d
    except ImportError:
        return None
    return half_conv2d


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "ModulatedTransformation: mtm_ops is not installed, so this snapshot samples with torch alone: slower, and "
        "differentiable only once. To train it, install mtm_ops.",
        RuntimeWarning,
        stacklevel=2,
    )


def _sampled_conv2d(
    x: Tensor, weight: Tensor, offset: Tensor, style: Tensor, *, mask: Tensor | None, padding: int, demodulate: bool
) -> Tensor:
    """What `mtm_ops.modulated_deform_conv2d` computes, tap by tap with torch's grid_sample; stride 1, one group."""
    H, W = x.shape[2:]
    k, dtype = weight.shape[3], offset.dtype
    style, weight = style.to(dtype), weight.to(dtype)
    seen_of = x.to(dtype) * style[:, :, None, None]
    rows_px, columns_px = (torch.arange(n, dtype=dtype, device=x.device) - padding for n in offset.shape[2:])
    y: Tensor | None = None
    for tap in range(k * k):
        i, j = divmod(tap, k)
        y_px = rows_px[:, None] + i + offset[:, 2 * tap]
        x_px = columns_px + j + offset[:, 2 * tap + 1]
        grid = torch.stack(((2 * x_px + 1) / W - 1, (2 * y_px + 1) / H - 1), dim=3)  # in grid_sample's units
        grid = grid.nan_to_num(nan=9).clamp(-9, 9)  # 9 is far outside, where everything is 0
        seen = F.grid_sample(seen_of, grid, align_corners=False)
        if mask is not None:
            seen = seen * mask[:, tap : tap + 1].to(dtype)
        part = torch.einsum("oc,bchw->bohw", weight[:, :, i, j], seen)
        y = part if y is None else y + part
    assert y is not None
    if demodulate:
        energy = weight.square().sum((2, 3))
        y = y * (style.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
    return y.to(x.dtype)


@contextlib.contextmanager
def offsets_scaled(module: nn.Module, factor: float) -> Iterator[None]:
    """Within the context every ModulatedTransformation of `module` returns its offsets times `factor`.

    Masks become 1 + factor * (mask - 1). A factor of 0 gives offsets of exactly 0 and no mask (plain convolution), 1
    gives exactly the module's own output, and more than 1 exaggerates. Contexts nest: the innermost factor applies;
    factors are not multiplied. The previous factor is restored at the end, even after an exception. A network compiled
    by torch.compile follows the factor: it recompiles for 0, for 1, and once for all others. An exported or traced
    program, and a copy of the module, keep the factor that was set when they were made. Do not use it while another
    thread runs the same network.

    Args:
        module: a network; unpickled snapshots and compiled networks are supported.
        factor: a finite number, at least 0.

    Raises:
        ValueError: for an invalid factor; if `module` contains no ModulatedTransformation, so that a comparison cannot
            silently compare nothing; or if one comes from a version without a strength to set.
        TypeError: if `module` is not a torch.nn.Module.

    Examples:
        >>> head = ModulatedTransformation(8, 4)
        >>> with offsets_scaled(head, 0.5):
        ...     offset, mask = head(torch.randn(1, 8, 5, 5), torch.randn(1, 4))
    """
    if not isinstance(factor, numbers.Real) or not 0 <= factor <= sys.float_info.max:
        raise ValueError(
            f"offsets_scaled: factor must be a finite number from 0 up; got {factor!r}. "
            "0 turns the offsets off, 1 leaves them as they are."
        )
    modules = _modules_of(module)
    before = [m.strength for m in modules]
    try:
        for m in modules:
            m.strength = float(factor)
        yield
    finally:
        for m, strength in zip(modules, before, strict=True):
            m.strength = strength


def offsets_disabled(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """`offsets_scaled` with factor 0: every ModulatedTransformation of `module` becomes plain convolution.

    The switch of the paper's Fig. 4. Errors: those of `offsets_scaled`.

    Examples:
        >>> head = ModulatedTransformation(8, 4)
        >>> with offsets_disabled(head):
        ...     offset, mask = head(torch.randn(1, 8, 5, 5), torch.randn(1, 4))
    """
    return offsets_scaled(module, 0)


def _modules_of(network: nn.Module) -> list[Any]:
    """Its ModulatedTransformations, found by name and not by type: unpickled snapshots have their own class."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"offsets_scaled: module must be a torch.nn.Module; got {type(network).__name__}.")
    modules = [m for m in network.modules() if type(m).__name__ == ModulatedTransformation.__name__]
    if not modules:
        raise ValueError(
            f"offsets_scaled: module must contain a ModulatedTransformation; {type(network).__name__} has none. "
            "Was it built with --mtm none?"
        )
    if not all(hasattr(m, "strength") for m in modules):
        raise ValueError(
            "offsets_scaled: module must hold modules that have a strength; got a snapshot of an older version, which "
            "carries its own code. Build the network anew and load the snapshot's parameters into it."
        )
    return modules
