"""The module of a deformable layer, two controls that each remove one of its inputs, and a bound on its offsets.

A control shows which part of the MTM does the work. Each keeps the offset convolution, its zero initialisation and its
learning rate, and does not change the random numbers of the rest of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SEES = ("xw", "x", "w")


class SeesX(nn.Module):
    """Offsets from the layer's input only, as in deformable convolutional networks (Dai et al. 2017, arXiv 1703.06211):
    the module gets a latent of 0, so its style is the bias of its affine map. The unused weights of that map are
    frozen."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.module.affine_weight.requires_grad_(False)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.module(x, w.new_zeros(w.shape))


class SeesW(nn.Module):
    """Offsets from the latent only: the module gets a learned constant [C, size, size], like that at a generator's
    start, in place of the layer's input. So an offset can depend on the position, but not on the content there."""

    def __init__(self, module: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.module = module
        with torch.random.fork_rng(devices=[]):
            self.constant = nn.Parameter(torch.randn(channels, size, size))

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.module(self.constant.expand(len(x), -1, -1, -1), w)


class Bounded(nn.Module):
    """Bounds the offsets of another module to `bound_px` along each axis: bound * tanh(offset / bound). Near 0, where
    training starts, this is the identity."""

    def __init__(self, module: nn.Module, bound_px: float) -> None:
        super().__init__()
        self.module, self.bound_px = module, bound_px

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        offset, mask = self.module(x, w)
        return self.bound_px * torch.tanh(offset / self.bound_px), mask


def make_module(channels: int, w_dim: int, size: int, head: str, sees: str = "xw", bound_px: float = 0.0) -> nn.Module:
    """A module (x [B, channels, size, size], w [B, w_dim]) -> (offset, mask or None) that uses both inputs ("xw"), only
    x or only w, as `sees` says.

    `bound_px`: the largest offset along each axis, in px of the layer; 0 for no bound. Raises ValueError for an unknown
    `sees` or head.
    """
    from mtm_ops import ModulatedTransformation

    if sees not in SEES:
        raise ValueError(f"make_module: sees must be one of {', '.join(SEES)}; got {sees!r}.")
    module: nn.Module = ModulatedTransformation(channels, w_dim, kernel_size=3, head=head)
    if sees != "xw":
        module = SeesX(module) if sees == "x" else SeesW(module, channels, size)
    return Bounded(module, bound_px) if bound_px else module
