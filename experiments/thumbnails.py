"""WebP thumbnails and film strips within a budget of bytes, to embed in a report."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.sheets import GAP_GREY

BUDGET_BYTES = 3_000_000  # for all images of a report; base64 adds a third
LARGEST_BYTES = 150_000  # per image, even if there are few
WIDEST_PX = 1600
FIRST_SHARES = 6
QUALITY = 75
BITS_PER_PX = 1.2  # first guess of WebP's size at that quality
WORKERS = 4
UNIFORM_SPREAD = 3.0  # grey levels; an image with less looks like one colour


@dataclass(frozen=True)
class Thumbnail:
    """`uri` holds the image; width and height are those of one frame, px; `note` is a caveat to show beside it."""

    uri: str
    width: int
    height: int
    note: str = ""


def thumbnails(
    wanted: Iterable[Sequence[Path]], first: Path | None = None
) -> tuple[dict[tuple[Path, ...], Thumbnail], list[str]]:
    """A thumbnail for each sequence of image files: the image of a single file, or the images of several (a film) one
    below the other.

    The thumbnails share BUDGET_BYTES; a film counts twice, and `first`, the report's widest image, FIRST_SHARES times.
    Returns the thumbnails by their files, and an error line for each sequence that cannot be read.
    """
    head: list[tuple[Path, ...]] = [] if first is None else [(first,)]
    strips = list(dict.fromkeys([*head, *(tuple(files) for files in wanted)]))
    weights = {files: FIRST_SHARES if files == (first,) else 1 if len(files) == 1 else 2 for files in strips}
    share = BUDGET_BYTES // max(1, sum(weights.values()))
    largest = {files: LARGEST_BYTES * (1 if len(files) == 1 else 2) for files in strips}
    with ThreadPoolExecutor(WORKERS) as pool:  # Pillow releases the GIL
        made = pool.map(lambda files: _made(files, min(largest[files], share * weights[files])), strips)
    results: Mapping[tuple[Path, ...], Thumbnail | str] = dict(zip(strips, made, strict=True))
    return (
        {files: result for files, result in results.items() if isinstance(result, Thumbnail)},
        [result for result in results.values() if isinstance(result, str)],
    )


def _made(files: tuple[Path, ...], budget_bytes: int) -> Thumbnail | str:
    try:
        frames = [read_rgb(file) for file in files]
    except ValueError as error:
        return str(error)
    width, height = frames[0].size
    pixels = budget_bytes * 8 / BITS_PER_PX
    scale = min(1.0, WIDEST_PX / width, math.sqrt(pixels / (width * height * len(frames))))
    while True:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        data = _encoded(frames, size)
        if len(data) <= budget_bytes or size == (1, 1):
            note = uniform_note(frames[0]) if len(frames) == 1 else ""
            return Thumbnail(f"data:image/webp;base64,{base64.b64encode(data).decode()}", *size, note)
        scale *= max(0.5, 0.95 * math.sqrt(budget_bytes / len(data)))


def read_rgb(file: Path) -> Image.Image:
    """The decoded image. Raises ValueError, naming the file, if it cannot be read."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file.parent.name}/{file.name} cannot be read as an image ({error})") from error


def uniform_note(sheet: Image.Image) -> str:
    """A note for images that look uniform, such as those of StyleGAN3 after a few iterations; "" for others.

    Such images are shown unchanged, because stretching the contrast would misrepresent what the network draws.
    """
    pixels = np.asarray(sheet).reshape(-1, 3)
    pixels = pixels[(pixels != GAP_GREY).any(axis=1)]
    spread = float(pixels.std(axis=0).max()) if len(pixels) else 0.0
    if spread >= UNIFORM_SPREAD:
        return ""
    return f"Nearly uniform, and not stretched: standard deviation {spread:.1f} of 255 grey levels."


def _encoded(frames: Sequence[Image.Image], size: tuple[int, int]) -> bytes:
    strip = Image.new("RGB", (size[0], size[1] * len(frames)))
    for i, frame in enumerate(frames):
        small = frame if frame.size == size else frame.resize(size, Image.Resampling.BOX, reducing_gap=1.0)
        strip.paste(small, (0, i * size[1]))
    buffer = io.BytesIO()
    strip.save(buffer, "webp", quality=QUALITY, method=2)
    return buffer.getvalue()
