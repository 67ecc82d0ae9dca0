"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), trained on ImageNet, with torchvision's first weights: trained
local features for small images. The network is implemented here because a torchvision wheel fits only one build of
torch.

The tap is the spatial mean of the last bottleneck (`features.17`, 320 numbers, without activation). The 1280 numbers of
the next layer would need more images for a covariance of full rank than a small study has.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.metrics.extractors import Extractor, bicubic
from experiments.metrics.fidelity import normalize

LAST_BOTTLENECK = "features.17"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Expansion, channels, number of blocks, stride of the first block (the paper's table 2).
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
CHUNK_NIMG = 16


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection; with a shortcut if the shape does not change."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        expand = [] if expansion == 1 else [_conv(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """The parameters have the names in torchvision's checkpoint, which also contains the classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, STEM, stride=2)]
        inputs = STEM
        for expansion, outputs, blocks, stride in BOTTLENECKS:
            for i in range(blocks):
                layers.append(Bottleneck(inputs, outputs, expansion, stride if i == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv(inputs, HEAD, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 320] of normalised images [N, 3, H, W]."""
        return self.features[:-1](images).mean(dim=(2, 3))


class MobileNet(Extractor):
    taps = {LAST_BOTTLENECK: BOTTLENECKS[-1][1]}
    size_px = 128
    resize_filter = "antialiased bicubic (torch), not rounded"
    backbone = "MobileNetV2 on ImageNet (torchvision's first weights)"

    def build(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location="cpu")
        with torch.device("meta"):
            self.network = MobileNetV2()
        self.network.load_state_dict(state, assign=True)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def resize(self, images: Tensor) -> Tensor:
        return normalize(bicubic(images, self.size_px).div_(255), MEAN, STD, inplace=True)

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        size = CHUNK_NIMG if resized.device.type == "cpu" else max(1, len(resized))
        parts = [self.network(x.contiguous(memory_format=torch.channels_last)) for x in resized.split(size)]
        return {LAST_BOTTLENECK: torch.cat(parts)}


EXTRACTOR = MobileNet
