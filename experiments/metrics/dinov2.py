"""The class token of DINOv2 ViT-L/14, 1024 numbers, for FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675).

The network (Oquab et al. 2023, arXiv 2304.07193; Dosovitskiy et al. 2021 with LayerScale) is implemented below because
torch-fidelity 0.4.0 takes no local weights for it: it downloads and executes Meta's repository. Images are resized with
antialiased bicubic interpolation, as in edm2 and, up to rounding to 8 bits, in dgm-eval, the paper's code.
torch-fidelity resizes with TensorFlow 1's bilinear filter and gives other numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.metrics.extractors import Extractor, bicubic
from experiments.metrics.fidelity import normalize

CLASS_TOKEN = "class token"
HEAD_WIDTH = 64
PATCH_PX = 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(width, eps=1e-6), Attention(width), LayerScale(width)
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(width, eps=1e-6), MLP(width), LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """The parameters have the names in Meta's checkpoints. `grid`: patches along a side of the training images."""

    def __init__(self, width: int = 1024, depth: int = 24, grid: int = 37) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the checkpoint; used for training only
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH_PX, PATCH_PX)})
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """The class token [N, width], after the last norm, of normalised images [N, 3, H, W]."""
        patches = self.patch_embed["proj"](images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self._positions(patches.shape[2], patches.shape[3])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings for another grid. The 0.1 is the offset that Meta's code uses with these checkpoints."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        places = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        places = F.interpolate(places, scale_factor=scale, mode="bicubic")
        assert places.shape[2:] == (rows, columns), places.shape
        return torch.cat([self.pos_embed[:, :1], places.flatten(2).transpose(1, 2)], dim=1)


class DINOv2(Extractor):
    taps = {CLASS_TOKEN: 1024}
    size_px = 224
    resize_filter = "antialiased bicubic (torch), not rounded"
    backbone = "DINOv2 ViT-L/14 without registers"

    def build(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location="cpu")
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        with torch.device("meta"):
            self.network = VisionTransformer(state["pos_embed"].shape[2], depth, grid)
        self.network.load_state_dict(state, assign=True)

    def resize(self, images: Tensor) -> Tensor:
        return normalize(bicubic(images, self.size_px).div_(255), MEAN, STD, inplace=True)

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        return {CLASS_TOKEN: self.network(resized)}


EXTRACTOR = DINOv2
