"""Inception v3 of 2015-12-05, the TensorFlow network of FID, in torch-fidelity's port.

Taps:
    pool3: 2048 numbers after the global average pooling (Heusel et al. 2017).
    mixed_6/conv: 2023 numbers, for sFID (Nash et al. 2021, arXiv 2103.03841, section 4.2). TensorFlow's mixed_3 to
        mixed_7 are called Mixed_6a to Mixed_6e here, and a block's node `conv` is its first 1x1 branch, after batch
        norm and ReLU. So this is Mixed_6d.branch1x1, its first 7 channels at all 17 x 17 positions. They are flattened
        channel after channel, while TensorFlow puts channels last; a distance does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.metrics.extractors import Extractor, tf1_bilinear
from experiments.metrics.fidelity import networks, version

POOL3, SPATIAL = "pool3", "mixed_6/conv"
SPATIAL_CHANNELS = 7
BEFORE = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"),
)  # fmt: skip
AFTER = ("Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool")
CHUNK_NIMG = 16  # images at once on a CPU; more need more memory and are not faster


class Inception(Extractor):
    taps = {POOL3: 2048, SPATIAL: SPATIAL_CHANNELS * 17 * 17}
    size_px = 299
    resize_filter = "bilinear of TensorFlow 1 (no antialiasing)"

    def build(self, path: Path) -> None:
        kind = networks("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        # Without a path, torch-fidelity would download the weights.
        self.network = kind("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        self.backbone = f"Inception v3 2015-12-05 (torch-fidelity {version()})"
        for module in self.network.modules():
            if type(module).__name__ == "BasicConv2d":
                module.conv, module.bn = nn.utils.fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def resize(self, images: Tensor) -> Tensor:
        return tf1_bilinear(images, self.size_px).sub_(128).div_(128)

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        size = CHUNK_NIMG if resized.device.type == "cpu" else max(1, len(resized))
        parts = [self._run(chunk.contiguous(memory_format=torch.channels_last), taps) for chunk in resized.split(size)]
        return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}

    def _run(self, x: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        found = {}
        for name in BEFORE:
            x = getattr(self.network, name)(x)
        if SPATIAL in taps:
            found[SPATIAL] = self.network.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].flatten(1)
        if POOL3 in taps:
            for name in AFTER:
                x = getattr(self.network, name)(x)
            found[POOL3] = x.flatten(1)
        return found


EXTRACTOR = Inception
