"""A compact StyleGAN2-style generator, with the MTM in it, and discriminator.

Written from the papers (Karras et al. 2019, arXiv 1812.04948; Karras et al. 2020, arXiv 1912.04958), for training on a
CPU with images of 32 or 64 px. The use of the Modulated Transformation Module (arXiv 2308.15472) is all in
`StyledConv.forward`: the layer keeps its weight, style, demodulation, noise, bias and activation; only the positions at
which the convolution samples its input come from the module.

Shapes: z [B, z_dim]; w [B, w_dim]; ws [B, num_latents, w_dim], one latent per layer; images [B, 3, R, R] in [-1, 1].
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2
GAIN = math.sqrt(2)  # keeps the variance of a leaky ReLU's output near that of its input


def lrelu(x: Tensor) -> Tensor:
    """Activation, in place: x must be the result of an operation that does not need its output for its gradient.

    GAIN is not applied here but by the operation that computed x, as a factor of its weights. That costs nothing,
    unlike another pass over the features."""
    return F.leaky_relu(x, LEAK, inplace=True)


class ScaledLinear(nn.Module):
    """Linear layer with equalised learning rate: weights of unit variance, scaled when used (Karras et al. 2018).

    `gain` multiplies that scale."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full([outputs], bias))
        self.gain = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


class ScaledConv(nn.Module):
    """Convolution with equalised learning rate, same-size padding; `gain` as in ScaledLinear."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain, self.padding = gain / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if self.padding:
            return F.conv2d(x, weight, self.bias, padding=self.padding)
        # torch's 1x1 convolution copies x to another layout; on channels-last data, a matmul needs no copy.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Mapping(nn.Module):
    """z -> w: normalises z to the sphere, then applies a few layers, whose learning rate is lower than the others'.

    Tracks the mean of w for truncation.
    """

    def __init__(self, z_dim: int, w_dim: int, layers: int = 2) -> None:
        super().__init__()
        widths = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(ScaledLinear(a, b, gain=GAIN) for a, b in pairwise(widths))
        self.w_avg: Tensor
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = F.normalize(z, dim=1) * math.sqrt(z.shape[1])
        for layer in self.layers:
            x = lrelu(layer(x))
        return x

    @torch.no_grad()
    def track(self, w: Tensor, decay: float = 0.995) -> None:
        """Moves w_avg towards the mean of a training batch of w."""
        self.w_avg.lerp_(w.mean(dim=0), 1 - decay)


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """[B, O]: the factors that give a weight [O, C, kh, kw], scaled by `style` [B, C], unit norm per output channel."""
    norm = style.square() @ weight.square().sum(dim=(2, 3)).t()
    return (norm + 1e-8).rsqrt()


def upsample2x(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class StyledConv(nn.Module):
    """3x3 modulated convolution with noise, bias and activation; deformable if `mtm` is given.

    x [B, inputs, R, R], w [B, w_dim] -> [B, outputs, R, R], or twice the size with `up`. Upsampling convolves first and
    then resamples, which needs a quarter of the arithmetic and makes no zero-insertion artefacts. `noisy` layers add
    noise of a learned strength.

    The style scales the input instead of the weight, and demodulation scales the output instead of the weight. The
    result is the same, with one convolution for the whole batch (Karras et al. 2020, section 2.2). Demodulation cancels
    any scale of the weight, so the weight needs no equalised learning rate.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        *,
        up: bool = False,
        noisy: bool = True,
        mtm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.affine = ScaledLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.noise_strength = nn.Parameter(torch.zeros([])) if noisy else None
        self.up = up
        self.mtm, self.deforms = mtm, True  # deforms: False while the module is switched off (Generator.set_deforming)

    def forward(self, x: Tensor, w: Tensor, noise: bool = True) -> Tensor:
        style = self.affine(w)
        if self.mtm is None or not self.deforms:
            y = F.conv2d(x * style[:, :, None, None], self.weight, padding=1)
        else:
            from mtm_ops import modulated_deform_conv2d

            offset, mask = self.mtm(x, w)
            y = modulated_deform_conv2d(x, self.weight, offset, style, mask=mask, padding=1, demodulate=False)
        if self.up:
            y = upsample2x(y)
        shift: Tensor = self.bias
        if noise and self.noise_strength is not None:
            shift = shift + torch.randn_like(y[:, :1]) * self.noise_strength
        scale = demodulation(self.weight, style) * GAIN
        return lrelu(torch.addcmul(shift, y, scale[:, :, None, None]))


class ToRGB(nn.Module):
    """Features to RGB at one resolution: a 1x1 modulated convolution without demodulation."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.affine = ScaledLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.gain = 1 / math.sqrt(inputs)
        self.bias = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        B, C, H, W = x.shape
        weight = self.affine(w)[:, :, None] * (self.weight.view(3, C).t() * self.gain)  # [B, C, 3], one per sample
        rgb = torch.bmm(x.permute(0, 2, 3, 1).reshape(B, H * W, C), weight)
        return rgb.view(B, H, W, 3).permute(0, 3, 1, 2) + self.bias


def channels_at(resolution: int, channels: int, full_resolution: int, growth: int = 4) -> int:
    """Feature channels at a resolution: `channels` at full resolution, doubling with each halving of the resolution, at
    most `growth` times `channels`."""
    return channels * min(full_resolution // resolution, growth)


def _check_resolution(name: str, resolution: int) -> None:
    if resolution < 8 or resolution.bit_count() != 1:
        raise ValueError(f"{name}: resolution must be a power of two from 8 up; got {resolution}.")


class Synthesis(nn.Module):
    """ws -> image. Starts from a learned 4x4 constant. Each further resolution has an upsampling layer and a plain one,
    whose RGB is added to the upsampled image so far (skip connections).

    `mtm_at` names the resolutions whose plain layer is deformable. Each 3x3 convolution has its own latent; a
    resolution's RGB uses the latent of the convolution before it.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        w_dim: int,
        mtm_at: tuple[int, ...],
        mtm_head: str,
        mtm_sees: str = "xw",
        noise: bool = True,
        mtm_bound_px: float = 0.0,
    ) -> None:
        super().__init__()
        _check_resolution("Synthesis", resolution)
        self.resolutions = [2**power for power in range(2, resolution.bit_length())]
        unknown = sorted(set(mtm_at) - set(self.resolutions))
        if unknown:
            here = f"resolutions of this generator, {self.resolutions}"
            raise ValueError(f"Synthesis: mtm must name {here}; got {unknown}. Leave these out of --mtm.")
        width = {r: channels_at(r, channels, resolution) for r in self.resolutions}
        self.constant = nn.Parameter(torch.randn(1, width[4], 4, 4))
        self.ups, self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for r in self.resolutions:
            noisy = noise and r < resolution  # at full resolution, noise shows as speckle after so short a training
            if r > 4:
                self.ups.append(StyledConv(width[r // 2], width[r], w_dim, up=True, noisy=noisy))
            mtm = None
            if r in mtm_at:
                from experiments.mini.controls import make_module

                mtm = make_module(width[r], w_dim, r, mtm_head, mtm_sees, mtm_bound_px)
            self.convs.append(StyledConv(width[r], width[r], w_dim, noisy=noisy, mtm=mtm))
            self.to_rgbs.append(ToRGB(width[r], w_dim))
        self.num_latents = len(self.ups) + len(self.convs)

    def forward(self, ws: Tensor, noise: bool = True) -> Tensor:
        latents = iter(ws.unbind(dim=1))
        x = self.constant.expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.convs[0](x, w := next(latents), noise)
        image = self.to_rgbs[0](x, w)
        for up, conv, to_rgb in zip(self.ups, self.convs[1:], self.to_rgbs[1:], strict=True):
            x = up(x, next(latents), noise)
            x = conv(x, w := next(latents), noise)
            image = upsample2x(image) + to_rgb(x, w)
        return image


class Generator(nn.Module):
    """z -> image [B, 3, resolution, resolution], about [-1, 1].

    Args:
        z_dim, w_dim: lengths of the latents.
        resolution: side of an image, px; a power of two of at least 8.
        channels: feature channels at full resolution; twice as many at half of it, four times at a quarter and below.
        mtm: resolutions with a deformable layer, in the syntax of `mtm_hosts.layers.parse_layers` ("low", "low,mid",
            "4,8"); "none" for no such layer, and then mtm_ops is not imported.
        mtm_head: "offset" or "offset+mask".
        mtm_sees: inputs of the offsets: "xw", or for a control "x" or "w" (experiments.mini.controls).
        noise: whether layers below full resolution have noise; without it, the latent alone determines the image.
        mtm_bound_px: the largest offset along each axis, px of the layer; 0 for no bound.

    With the same seed, every parameter outside the MTM is bit-identical for all values of `mtm`.
    """

    def __init__(
        self,
        z_dim: int = 64,
        w_dim: int = 64,
        resolution: int = 32,
        channels: int = 16,
        mtm: str | None = "low",
        mtm_head: str = "offset",
        mtm_sees: str = "xw",
        noise: bool = True,
        mtm_bound_px: float = 0.0,
    ) -> None:
        super().__init__()
        mtm_at: tuple[int, ...] = ()
        if mtm not in (None, "none"):
            from mtm_hosts.layers import parse_layers

            mtm_at = parse_layers(mtm)
        self.z_dim, self.w_dim, self.resolution = z_dim, w_dim, resolution
        self.mapping = Mapping(z_dim, w_dim)
        self.synthesis = Synthesis(resolution, channels, w_dim, mtm_at, mtm_head, mtm_sees, noise, mtm_bound_px)
        self.num_latents = self.synthesis.num_latents

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """ws [B, num_latents, w_dim], the same latent for every layer; truncation < 1 moves it towards the mean."""
        w = self.mapping(z)
        if truncation != 1:
            w = self.mapping.w_avg.lerp(w, truncation)
        return w[:, None].expand(-1, self.num_latents, -1)

    def forward(self, z: Tensor, truncation: float = 1.0, noise: bool = True) -> Tensor:
        return self.synthesis(self.map(z, truncation), noise)

    def mtm_layers(self) -> dict[int, StyledConv]:
        """The deformable layers, by resolution."""
        pairs = zip(self.synthesis.resolutions, self.synthesis.convs, strict=True)
        return {r: conv for r, conv in pairs if isinstance(conv, StyledConv) and conv.mtm is not None}

    def set_deforming(self, on: bool) -> None:
        """Switches the deformable layers on or off. If off, each is a plain convolution and its module is not used."""
        for conv in self.mtm_layers().values():
            conv.deforms = on


class ResidualDown(nn.Module):
    """Discriminator block: two 3x3 convolutions and a 1x1 shortcut; halves the resolution.

    The sum of the two paths is divided by sqrt(2), through the gains of its summands."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ScaledConv(inputs, inputs, 3, gain=GAIN)
        self.second = ScaledConv(inputs, outputs, 3)
        self.shortcut = ScaledConv(inputs, outputs, 1, bias=False, gain=1 / GAIN)

    def forward(self, x: Tensor) -> Tensor:
        # Pools before the second convolution: the two commute, and the convolution then costs a quarter.
        y = lrelu(self.second(F.avg_pool2d(lrelu(self.first(x)), 2)))
        return y + self.shortcut(F.avg_pool2d(x, 2))


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """x with one more channel: the mean standard deviation over groups of `group` consecutive samples. It reveals a
    collapsed batch."""
    groups = x.unflatten(0, (-1, group))
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)
    spread = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, spread.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class Discriminator(nn.Module):
    """Images [B, 3, R, R] -> logits [B], high for real images. Residual (Karras et al. 2020)."""

    def __init__(self, resolution: int = 32, channels: int = 16) -> None:
        super().__init__()
        _check_resolution("Discriminator", resolution)
        sizes = [2**power for power in range(resolution.bit_length() - 1, 1, -1)]
        width = [channels_at(r, channels, resolution) for r in sizes]
        self.from_rgb = ScaledConv(3, width[0], 1, gain=GAIN)
        self.blocks = nn.ModuleList(ResidualDown(a, b) for a, b in pairwise(width))
        self.conv = ScaledConv(width[-1] + 1, width[-1], 3, gain=GAIN)
        self.hidden = ScaledLinear(width[-1] * 16, width[-1], gain=GAIN)
        self.logit = ScaledLinear(width[-1], 1)

    def forward(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Logits of each batch [B, 3, R, R]. Several batches share one pass, which costs less than one pass each.

        Minibatch standard deviations never mix two batches."""
        sizes = [len(batch) for batch in batches]
        group = next(g for g in range(4, 0, -1) if not any(size % g for size in sizes))
        x = torch.cat(batches).contiguous(memory_format=torch.channels_last)
        x = lrelu(self.from_rgb(x))
        for block in self.blocks:
            x = block(x)
        x = lrelu(self.conv(minibatch_stddev(x, group)))
        return self.logit(lrelu(self.hidden(x.flatten(1)))).squeeze(1).split(sizes)
