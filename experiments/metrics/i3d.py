"""I3D trained on Kinetics-400, the 400 numbers before the softmax: the network of FVD (Unterthiner et al. 2018, arXiv
1812.01717), in StyleGAN-V's TorchScript conversion, which is in common use.

It rescales and resizes its input: rescale=True, resize=True, return_features=True, as StyleGAN-V and StyleSV call it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from experiments.metrics.extractors import Extractor

LOGITS = "before softmax"
CHUNK_FRAMES = 128  # frames computed at once, as in StyleGAN-V


class I3D(Extractor):
    taps = {LOGITS: 400}
    size_px = 224
    resize_filter = "in the TorchScript (resize=True)"
    backbone = "I3D on Kinetics-400 (TorchScript of StyleGAN-V)"
    ndim = 5
    resizes_inside = True

    def build(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from torch.jit, which the file needs
            self.network = torch.jit.load(str(path), map_location="cpu")

    def resize(self, images: Tensor) -> Tensor:
        return images

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        chunks = resized.split(max(1, CHUNK_FRAMES // resized.shape[2]))
        parts = [self.network(x, rescale=True, resize=True, return_features=True) for x in chunks]
        return {LOGITS: torch.cat(parts).float()}


EXTRACTOR = I3D
