"""Images of one pair of the study's runs: samples of plain and Low, and interpolated latents at several strengths of
the offsets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from experiments.files import atomic_output
from experiments.images import grid, real_images
from experiments.snapshots import open_snapshot

SEED = 7
SHOWN_NIMG = 14
ROWS = ("real", "plain", "Low", "offsets off")
STRENGTHS = {"off": 0.0, "half": 0.5, "on": 1.0}
STEPS, WAYS = 12, 2  # of the sheet: images per interpolation, and interpolations
FRAMES, STOPS, FRAME_MS = 48, 4, 90  # of the animation, which ends where it begins


def write_all(folder: Path, low: Path, plain: Path | None, data: Path | None) -> list[Path]:
    """Writes people.png, sweep.png and film.webp of a pair's final generators; people.png needs `plain` and `data`."""
    images: dict[str, tuple[Image.Image, dict]] = {"sweep.png": (sweep(low), {})}
    first, *rest = animation(low)
    timing = {"save_all": True, "append_images": rest, "duration": FRAME_MS, "loop": 0, "quality": 80, "method": 6}
    images["film.webp"] = first, timing
    if plain is not None and data is not None:
        images["people.png"] = side_by_side(low, plain, data), {"optimize": True}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (image, options) in images.items():
        buffer = io.BytesIO()
        image.save(buffer, format=name.rpartition(".")[2], **options)
        with atomic_output(folder / name) as partial:
            partial.write_bytes(buffer.getvalue())
    return [folder / name for name in images]


def side_by_side(low: Path, plain: Path, data: Path) -> Image.Image:
    """Four rows: real images, images of the plain generator, and images of Low with the offsets on and off. The last
    three rows have the same latents, none selected."""
    with open_snapshot(plain) as before, open_snapshot(low) as after:
        torch.manual_seed(SEED)
        z = torch.randn(SHOWN_NIMG, after.facts.z_dim)
        reals = real_images(data, SHOWN_NIMG, SEED, after.facts.resolution)
        rows = [reals, before.generate(z), after.generate(z), after.generate(z, strength=0.0)]
    return grid(torch.cat(rows), SHOWN_NIMG, ROWS)


def sweep(low: Path) -> Image.Image:
    """Interpolations between two latents, each at the strengths 0, 0.5 and 1 of the offsets."""
    with open_snapshot(low) as snapshot:
        torch.manual_seed(SEED)
        rows = []
        for first, last in torch.randn(WAYS, 2, snapshot.facts.z_dim):
            z = between(first, last, STEPS)
            rows += [snapshot.generate(z, strength=strength) for strength in STRENGTHS.values()]
        return grid(torch.cat(rows), STEPS, tuple(STRENGTHS) * WAYS)


def animation(low: Path) -> Iterator[Image.Image]:
    """Frames of a latent that moves through STOPS latents and back to the first, with the offsets off, half and on side
    by side."""
    with open_snapshot(low) as snapshot:
        torch.manual_seed(SEED)
        stops = torch.randn(STOPS, snapshot.facts.z_dim)
        legs = [between(a, b, FRAMES // STOPS + 1)[:-1] for a, b in zip(stops, stops.roll(-1, 0), strict=True)]
        z = torch.cat(legs)
        images = torch.stack([snapshot.generate(z, strength=strength) for strength in STRENGTHS.values()], dim=1)
    for frame in images:
        yield grid(frame, len(STRENGTHS))


def between(first: torch.Tensor, last: torch.Tensor, steps: int) -> torch.Tensor:
    """[steps, z_dim] from one latent to another, on a great circle, because linear interpolation gives latents that are
    too short."""
    at = torch.linspace(0, torch.pi / 2, steps)[:, None]
    return first * at.cos() + last * at.sin()
