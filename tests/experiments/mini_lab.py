"""Data for the tests of the compact host."""

import zipfile
from pathlib import Path

import torch
from PIL import Image


def write_dots(path: Path, count: int, dots: int, resolution: int) -> Path:
    """A zip of `count` images of `resolution` px: dots x dots random colours, smoothly enlarged."""
    generator = torch.Generator().manual_seed(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            pixels = torch.randint(0, 256, (dots, dots, 3), dtype=torch.uint8, generator=generator)
            with archive.open(f"00000/img{i:08d}.png", "w") as file:
                image = Image.fromarray(pixels.numpy()).resize((resolution,) * 2, Image.Resampling.BILINEAR)
                image.save(file, "png")
    return path
