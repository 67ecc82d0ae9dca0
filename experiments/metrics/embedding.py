"""The feature extractor of the quickstart's Fréchet distance: a small convolutional network with fixed random weights.

Why random weights (Naeem et al. 2020, arXiv 2002.09797, section 3.1, "random embeddings"): ImageNet features are
trained on photographs, and their geometry is arbitrary for drawn glyphs. They need a download, and many more samples
than their 2048 dimensions for a good estimate of the covariance. An untrained network keeps what convolution itself
measures: edges, corners, blobs and their arrangement.

What differs from that paper, and why: Naeem et al. use the last 4096-d layer of VGG16. Ours must work with a few
thousand images of 32 px, so it gives 192 numbers. 96 say *what* there is: the mean response of each channel at three
scales, before the scales are mixed, so that noise and blur have an effect. 96 say *where* it is: fixed random
projections of the coarse 4x4 maps, so that misplaced parts have an effect. The filters are orthogonal, which spreads
variance evenly over them; plain Gaussian filters leave the covariance nearly singular.

The distance in these features ranks samples of one data set. It is not FID and must not be called FID: its unit is
arbitrary, and it is comparable only with numbers of the same fingerprint.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE_PX = 32
WIDTHS = (32, 32, 32)  # channels after each scale: 32, 16 and 8 px
PROJECTIONS = 96
SEED = 20308
LEAK = 0.2
SCALE = 10.0  # of the features, so that distances are from 0.1 (two halves of the data) to about 100 (grey images)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] float64 with orthonormal rows, or orthonormal columns if there are fewer columns than rows."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # makes the factor unique, independent of the LAPACK in use
    return q if rows >= columns else q.T


class RandomEmbedding:
    """Images, uint8 [N, 3, H, W], to features, float32 [N, 192].

    Deterministic: the weights come from a numpy generator with a fixed seed, and torch's random stream is neither read
    nor advanced. They are rounded to 12 bits, so that their hash is the same on every machine. Features of an image do
    not depend on the rest of its batch beyond float32 rounding. Extra memory: 0.4 MB per image of a chunk.

    >>> RandomEmbedding()(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 192])
    """

    dimensions = sum(WIDTHS) + PROJECTIONS

    def __init__(self, chunk_nimg: int = 250) -> None:
        rng = np.random.default_rng(SEED)
        self.chunk_nimg = chunk_nimg
        self.filters, inputs = [], 3
        for outputs in WIDTHS:
            filters = _orthogonal(rng, outputs, inputs * 9).reshape(outputs, inputs, 3, 3)
            self.filters.append(_rounded(filters * math.sqrt(inputs * 9 / min(outputs, inputs * 9)) / 3))
            inputs = outputs
        places = WIDTHS[-1] * 16
        self.projection = _rounded(_orthogonal(rng, PROJECTIONS, places))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Raises ValueError unless images is uint8 [N, 3, H, W]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"RandomEmbedding: images must be uint8 [N, 3, H, W]; got {images.dtype} {list(images.shape)}. "
                "Quantise generated images first (experiments.mini.data.to_uint8)."
            )
        chunks = [self._embed(chunk) for chunk in images.split(self.chunk_nimg)]
        return torch.cat(chunks) if len(images) else torch.zeros(0, self.dimensions)

    def _embed(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        if x.shape[2:] != (SIZE_PX, SIZE_PX):
            x = F.interpolate(x, (SIZE_PX, SIZE_PX), mode="bilinear", antialias=True, align_corners=False)
        features = []
        for filters in self.filters:
            x = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), filters), LEAK) * math.sqrt(2)
            features.append(x.mean(dim=(2, 3)))
            x = F.avg_pool2d(x, 2)
        places = x.flatten(1) @ self.projection.t()
        return torch.cat([*features, places], dim=1) * SCALE

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of a number computed from these features."""
        digest = hashlib.sha256()
        for weights in (*self.filters, self.projection):
            digest.update(repr(list(weights.shape)).encode() + weights.numpy().astype("<f4").tobytes())
        return {
            "backbone": f"random-embedding-{self.dimensions} (fixed random convolutions; not FID)",
            "weights_sha256": digest.hexdigest(),
            "size_px": SIZE_PX,
            "resize_filter": f"none at {SIZE_PX} px, else antialiased bilinear (torch)",
            "quantisation": "uint8; generated = (x*127.5+128).clamp(0,255).uint8",
            "dimensions": self.dimensions,
            "scale": SCALE,
        }


def _rounded(weights: np.ndarray) -> Tensor:
    """Rounds weights to steps of 1/4096, as float32. Steps are far larger than the differences between two machines'
    linear algebra, and far smaller than the weights."""
    return torch.from_numpy((np.round(weights * 4096) / 4096).astype(np.float32))
