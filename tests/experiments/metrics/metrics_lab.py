"""Small images, clips and features for the tests of metrics."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_images(folder: Path, count: int = 6, seed: int = 0, sizes: tuple[int, ...] = (24,), dark: int = 0) -> Path:
    """PNGs of coarse noise. Each image takes the next of `sizes`, in turn."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        pixels = random.integers(dark, 256, (6, 6, 3), dtype=np.uint8)
        size = sizes[index % len(sizes)]
        Image.fromarray(pixels).resize((size, size)).save(folder / f"{index:03d}.png")
    return folder


def make_clips(folder: Path, lengths: list[int], size: int = 20, seed: int = 0) -> Path:
    """Folders of frames that show a square moving over noise."""
    random = np.random.default_rng(seed)
    for clip, length in enumerate(lengths):
        (folder / f"{clip:03d}").mkdir(parents=True)
        ground = random.integers(0, 128, (size, size, 3), dtype=np.uint8)
        for frame in range(length):
            pixels = ground.copy()
            pixels[:, (frame + clip) % size] = 255
            Image.fromarray(pixels).save(folder / f"{clip:03d}" / f"frame{frame}.png")
    return folder


def gaussian(seed: int, count: int, dimensions: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features [count, dimensions], float32."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / dimensions**0.5
    return (random.normal(size=(count, dimensions)) @ mix + shift).astype(np.float32)
