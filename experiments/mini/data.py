"""Images from a zip in the hosts' data set format, all in memory, in an order that depends on the seed only."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.datasets.images import decode_rgb, open_source
from experiments.datasets.zips import ContentHash
from experiments.files import UserError

MAX_MPX = 5.0  # per image


@dataclass(frozen=True)
class ImageSet:
    """uint8 images [N, 3, R, R] and the hash of their content (experiments.datasets.zips.ContentHash)."""

    pixels: Tensor
    sha256: str

    @property
    def resolution(self) -> int:
        """Side of an image, px."""
        return self.pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, start_nimg: int, size: int, seed: int) -> Tensor:
        """The next `size` images after the first `start_nimg`, as float32 [size, 3, R, R] in [-1, 1].

        The order of each pass over the data is drawn from (seed, pass), so a resume needs no saved order.
        """
        ticket = np.arange(start_nimg, start_nimg + size)
        index = np.empty(size, dtype=np.int64)
        for epoch in np.unique(ticket // len(self)):
            here = ticket // len(self) == epoch
            index[here] = _order(len(self), seed, int(epoch))[ticket[here] % len(self)]
        return to_float(self.pixels[torch.from_numpy(index)])


_last_order: tuple[tuple[int, int, int], np.ndarray] | None = None


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    global _last_order
    key = (count, seed, epoch)
    if _last_order is None or _last_order[0] != key:
        _last_order = key, np.random.default_rng([seed, epoch]).permutation(count)
    return _last_order[1]


def to_float(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8 with the hosts' quantisation: x * 127.5 + 128, clamped and truncated."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def load_images(path: Path) -> ImageSet:
    """Reads all images of a zip in the hosts' format into memory.

    Raises:
        UserError: if the file is missing or not a zip, has no images, or has an image that cannot be decoded, is not
            square, has a side that is not a power of two of at least 8 px, or differs in size from the first. The
            message names the file.
    """
    if not path.is_file():
        raise UserError(
            f"load_images: --data must be a zip of images; expected a file, got {str(path)!r}, which is not one. "
            "Make one with python -m tools.data: openmoji DEST, or images SOURCE DEST for your own."
        )
    source = open_source(path)
    content, pixels = ContentHash(), None
    for i, name in enumerate(source.names):
        try:
            image = np.asarray(decode_rgb(source.read(name), MAX_MPX))
        except (ValueError, OSError, SyntaxError, zipfile.BadZipFile) as error:
            raise UserError(f"load_images: {name} in {str(path)!r} must be a readable image; got: {error}.") from error
        _check_size(image, name, path, pixels)
        if pixels is None:
            pixels = np.empty((len(source.names), *image.shape), dtype=np.uint8)
        pixels[i] = image
        content.add(image)
    assert pixels is not None  # open_source raises for an empty zip
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), content.hexdigest(None))


def _check_size(image: np.ndarray, name: str, path: Path, pixels: np.ndarray | None) -> None:
    height, width = image.shape[:2]
    side = width if pixels is None else pixels.shape[1]
    if (width, height) == (side, side) and side >= 8 and side.bit_count() == 1:
        return
    expected = "a power of two from 8 px up" if pixels is None else f"{side} x {side} px like the first"
    raise UserError(
        f"load_images: the images of a data set must be square and of one size; expected {expected}, got "
        f"{width} x {height} px in {name} of {str(path)!r}. Resize them: python -m tools.data images --help."
    )
