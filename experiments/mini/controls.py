"""The module of a deformable layer, two controls that each remove one of its inputs, and a bound.

A control shows which part of the MTM does the work. Each keeps the offset convolution, its zero start and its learning
rate, and the random stream of the rest of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEES = ("xw", "x", "w")


class SeesX(nn.Module):
    """Offsets of the layer's input alone, as in deformable convolution networks (Dai et al. 2017, arXiv 1703.06211):
    the module at a latent of 0, whose style is its affine map's bias. The unused weights of that map are frozen."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.module.affine_weight.requires_grad_(False)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.module(x, w.new_zeros(w.shape))


class SeesW(nn.Module):
    """Offsets of the latent alone: the module on a learned constant [C, size, size] in place of the layer's input, as a
    generator begins with one. It can place each offset by where it is, and not by what is there."""

    def __init__(self, module: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.module = module
        with torch.random.fork_rng(devices=[]):
            self.constant = nn.Parameter(torch.randn(channels, size, size))

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.module(self.constant.expand(len(x), -1, -1, -1), w)


class Bounded(nn.Module):
    """Offsets of another module, none longer than `bound_px` along either axis: bound * tanh(offset / bound). Near 0,
    where training starts, they are the module's."""

    def __init__(self, module: nn.Module, bound_px: float) -> None:
        super().__init__()
        self.module, self.bound_px = module, bound_px

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        offset, mask = self.module(x, w)
        return self.bound_px * torch.tanh(offset / self.bound_px), mask


def make_module(channels: int, w_dim: int, size: int, head: str, sees: str = "xw", bound_px: float = 0.0) -> nn.Module:
    """(x [B, channels, size, size], w [B, w_dim]) -> (offset, mask or None), of both, of x alone, or of w alone.

    `bound_px`: the longest offset along each axis, in px of the layer; 0 for no bound. Raises ValueError for an unknown
    `sees` or head.
    """
    from mtm_ops import ModulatedTransformation

    if sees not in SEES:
        raise ValueError(f"make_module: sees must be one of {', '.join(SEES)}; got {sees!r}.")
    module: nn.Module = ModulatedTransformation(channels, w_dim, kernel_size=3, head=head)
    if sees != "xw":
        module = SeesX(module) if sees == "x" else SeesW(module, channels, size)
    return Bounded(module, bound_px) if bound_px else module
