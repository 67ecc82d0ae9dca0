"""Feature extractors: a pretrained network with its preprocessing, and the fingerprint of both.

    detector = detector_of("inception-2015-12-05", "pool3")   # with the weights that experiments.weights finds
    detector(images)                                          # uint8 [N, 3, H, W] -> float32 [N, 2048]

To add one: a module here with a subclass of Extractor named EXTRACTOR, a line in MODULES, and its entry in
experiments/weights.toml.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.metrics.base import STAND_IN

MODULES = {
    "inception-2015-12-05": "inception",
    "clip-vit-b-32": "clip",
    "dinov2-vit-l-14": "dinov2",
    "i3d-kinetics-400": "i3d",
    "blazepose-full": "blazepose",
    "mobilenet-v2": "mobilenet",
}
FIELDS = (  # of Extractor.fingerprint
    *("backbone", "feature", "dimensions", "weights", "weights_sha256"),
    *("size_px", "resize_filter", "quantisation"),
)
QUANTISATION = "uint8; generated = (x*127.5+128).clamp(0,255).uint8"


class Extractor(nn.Module, ABC):
    """A network with one or more outputs ("taps").

    Class attributes: `taps` (name -> dimensions), `size_px` (side of the image that the network sees), `resize_filter`
    and `backbone` (in words, for the fingerprint), and `ndim` of a batch (5 for clips).
    """

    taps: dict[str, int]
    size_px: int
    resize_filter: str
    backbone: str
    ndim = 4
    resizes_inside = (
        False  # if True, the network resizes: `resize` does nothing, and all images of a batch have one size
    )

    def __init__(self, path: Path) -> None:
        """Builds the network with its weights from `path`. Does not use torch's random stream."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.build(path)
        self.weights_sha256, self.stand_in = "", False
        self.eval().requires_grad_(False)

    @abstractmethod
    def build(self, path: Path) -> None:
        """Creates the modules with the weights in `path`."""

    @abstractmethod
    def resize(self, images: Tensor) -> Tensor:
        """Preprocesses uint8 [N, 3, ..., H, W] to the input of `run`."""

    @abstractmethod
    def run(self, resized: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        """Features [N, D], float32, of each requested tap."""

    @torch.inference_mode()
    def forward(self, images: Tensor | list[Tensor], taps: Iterable[str]) -> dict[str, Tensor]:
        """Features of uint8 images [N, 3, H, W], or of a list of images [3, H, W] of any sizes; clips have T before H.
        Each image is resized by itself, so that its features do not depend on the rest of the batch beyond float32
        rounding. Raises ValueError for another type or shape."""
        with _full_precision(self.device):
            return self._forward(images, tuple(taps))

    def _forward(self, images: Tensor | list[Tensor], taps: tuple[str, ...]) -> dict[str, Tensor]:
        if isinstance(images, Tensor):
            self._check(images)
            return self.run(self.resize(images), taps)
        by_shape: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(index)
        batches = [torch.stack([images[index] for index in indices]).to(self.device) for indices in by_shape.values()]
        for batch in batches:
            self._check(batch)
        order = torch.tensor([index for indices in by_shape.values() for index in indices]).argsort()
        if self.resizes_inside:
            parts = [self.run(batch, taps) for batch in batches]
            return {tap: torch.cat([part[tap] for part in parts])[order] for tap in taps}
        resized = [self.resize(batch) for batch in batches]
        return self.run(resized[0] if len(resized) == 1 else torch.cat(resized)[order], taps)

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters())).device

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != self.ndim or images.shape[1] != 3:
            wanted = "[N, 3, H, W]" if self.ndim == 4 else "[N, 3, T, H, W]"
            raise ValueError(
                f"{type(self).__name__}: images must be uint8 {wanted}; got {images.dtype} {list(images.shape)}. "
                "Quantise generated images first (experiments.mini.data.to_uint8)."
            )

    def fingerprint(self, tap: str) -> dict[str, Any]:
        """The fingerprint of a number computed from the features of `tap`."""
        return {
            "backbone": self.backbone,
            "feature": tap,
            "dimensions": self.taps[tap],
            "weights": STAND_IN if self.stand_in else "official",
            "weights_sha256": self.weights_sha256,
            "size_px": self.size_px,
            "resize_filter": self.resize_filter,
            "quantisation": QUANTISATION,
        }


class Detector(nn.Module):
    """One tap of an extractor with the interface of the official codebases' detectors: takes uint8 images, returns
    features, ignores other arguments."""

    def __init__(self, extractor: Extractor, tap: str) -> None:
        super().__init__()
        self.extractor, self.tap, self.dimensions = extractor, tap, extractor.taps[tap]

    def forward(self, images: Tensor, **_: Any) -> Tensor:
        return self.extractor(images, (self.tap,))[self.tap]

    def fingerprint(self) -> dict[str, Any]:
        return self.extractor.fingerprint(self.tap)


def extractor_class(backbone: str) -> type[Extractor]:
    return importlib.import_module(f"experiments.metrics.{MODULES[backbone]}").EXTRACTOR


def build_extractor(backbone: str, folder: Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of that name with its weights from `folder`. experiments.weights.locate verifies the file before it
    is opened, and raises UserError."""
    from experiments.weights import locate

    located = locate([backbone], folder)[backbone]
    extractor = extractor_class(backbone)(located.path)
    extractor.weights_sha256, extractor.stand_in = located.sha256, located.stand_in
    return extractor.to(device)


def detector_of(backbone: str, tap: str, folder: Path | None = None, device: str | torch.device = "cpu") -> Detector:
    """One tap of `build_extractor`, for the official codebases' own metric loops."""
    return Detector(build_extractor(backbone, folder, device), tap)


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Disables TensorFloat-32 in a GPU's convolutions, which torch allows by default; it keeps 10 of the 23 bits of a
    float32's mantissa."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)


def tf1_bilinear(images: Tensor, size_px: int) -> Tensor:
    """Resizes [N, 3, H, W] of any real type to float32 [N, 3, size_px, size_px] as TensorFlow 1 does: output i samples
    at i * in / out, without antialiasing and without half-pixel centres. The result is bit-identical to that of
    torch-fidelity's interpolate_bilinear_2d_like_tensorflow1x, but one axis is resized after the other, which needs
    fewer reads."""
    return _lerp(_lerp(images.float(), 3, size_px), 2, size_px)


def _lerp(x: Tensor, axis: int, size_px: int) -> Tensor:
    length = x.shape[axis]
    if length == size_px:
        return x
    at = torch.arange(size_px, dtype=torch.float32, device=x.device) * (length / size_px)
    low = at.long()
    high = (low + 1).clamp_max(length - 1)
    fraction = (at - low.float()).view([-1 if i == axis else 1 for i in range(x.ndim)])
    below = x.index_select(axis, low)
    return x.index_select(axis, high).sub_(below).mul_(fraction).add_(below)


def bicubic(images: Tensor, size_px: int) -> Tensor:
    """Resizes [N, 3, H, W] to float32 [N, 3, size_px, size_px], antialiased bicubic: Pillow's filter without its
    rounding and clipping to 8 bits."""
    x = images.float()
    if x.shape[2:] == (size_px, size_px):
        return x
    return F.interpolate(x, (size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
