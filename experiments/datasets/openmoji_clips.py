"""Clips of OpenMoji glyphs that swing, stretch and drift, to train the video hosts without a download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from experiments.datasets import openmoji
from experiments.datasets.openmoji import SUPERSAMPLE, affine, check_options, draw_glyph, draw_glyphs
from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import CLIPS, DatasetInfo, write_clips

_PERIOD_FRAMES = (12, 32)
_SWING_DEG = (10.0, 45.0)
_SCALE = (0.55, 0.75)  # at rest, in image sides
_STRETCH = (0.0, 0.25)  # relative to the scale
_DRIFT = 0.12  # in image sides


def render_clips(subset: str, resolution: int, count: int, frames: int, seed: int) -> Iterator[Iterator[np.ndarray]]:
    """`count` clips of `frames` frames, uint8 [resolution, resolution, 3]; the same arguments give the same clips.

    In each clip one glyph swings about its centre, stretches and drifts, each periodically."""
    glyphs = draw_glyphs(openmoji.SUBSETS[subset])
    for index in range(count):
        yield _clip(glyphs[index % len(glyphs)], resolution, frames, np.random.default_rng([seed, resolution, index]))


def _clip(glyph: Image.Image, resolution: int, frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    swing_deg, size, stretch = rng.uniform(*_SWING_DEG), rng.uniform(*_SCALE), rng.uniform(*_STRETCH)
    drift = rng.uniform(-_DRIFT, _DRIFT, size=2)
    speed = 2 * np.pi / rng.uniform(*_PERIOD_FRAMES, size=3)
    phase = rng.uniform(0, 2 * np.pi, size=3)
    side_px = resolution * SUPERSAMPLE
    for time in range(frames):
        turned, stretched, drifted = np.sin(speed * time + phase)
        scale = size * (1 + stretch * stretched * np.array([1.0, -1.0]))
        numbers = affine(swing_deg * turned, scale, 0.0, drift * drifted, side_px)
        yield np.asarray(draw_glyph(glyph, Image.Transform.AFFINE, numbers, side_px))


def make(_source: None, file: Path, subset: str, resolution: int, count: int, frames: int, seed: int) -> DatasetInfo:
    """Writes the clips as a zip in the video hosts' format. Byte-identical for the same arguments and versions."""
    check_options("openmoji-clips", subset, resolution, count=count, frames=frames)
    clips = render_clips(subset, resolution, count, frames, seed)
    shown = tqdm(clips, total=count, desc=f"Drawing {subset} in motion", unit="clip", disable=None)
    return write_clips(file, shown, resolution)


RECIPE = Recipe(
    name="openmoji-clips",
    title="Clips of OpenMoji glyphs in motion.",
    make=make,
    obtain=openmoji.OBTAIN,
    licence=openmoji.LICENCE,
    credit=openmoji.CREDIT,
    takes_source=False,
    options=(
        openmoji.SUBSET,
        click.Option(["--resolution"], type=int, default=128, show_default=True, help="Side of a frame, px."),
        click.Option(["--count"], type=int, default=500, show_default=True, help="How many clips."),
        click.Option(["--frames"], type=int, default=32, show_default=True, help="Frames per clip."),
        openmoji.SEED,
    ),
    packages=(*openmoji.PACKAGES, "numpy"),
    folder=CLIPS,
    more_sources=(openmoji.__file__,),
)
