"""CLIP ViT-B/32's image embedding, 512 numbers, as torch-fidelity runs OpenAI's network (Kynkäänniemi et al. 2023).

Images are resized as in torch-fidelity, by TensorFlow 1's bilinear filter. clean-fid uses Pillow's bicubic filter and a
centre crop instead, and gives other numbers. StyleGAN-XL's "clipfid" uses another network, CLIP RN50.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from experiments.metrics.extractors import Extractor, tf1_bilinear
from experiments.metrics.fidelity import networks, normalize, version

EMBEDDING = "image embedding"
MEAN = (255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073)
STD = (255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711)


class CLIP(Extractor):
    taps = {EMBEDDING: 512}
    size_px = 224
    resize_filter = "bilinear of TensorFlow 1 (no antialiasing)"

    def build(self, path: Path) -> None:
        kind = networks("feature_extractor_clip").FeatureExtractorCLIP
        self.network = kind("clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(path)).model.visual
        self.backbone = f"CLIP ViT-B/32 (torch-fidelity {version()})"

    def resize(self, images: Tensor) -> Tensor:
        return normalize(tf1_bilinear(images, self.size_px), MEAN, STD, inplace=True)

    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        return {EMBEDDING: self.network(resized).float()}


EXTRACTOR = CLIP
