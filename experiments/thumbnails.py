"""Images small enough to lie inside a report: WebP thumbnails and film strips, within a budget of bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

BUDGET_BYTES = 3_000_000  # of all images of a report together; base64 adds a third
LARGEST_BYTES = 150_000  # of one image, where there are few
WIDEST_PX = 1600
QUALITY = 75
BITS_PER_PX = 1.2  # a guess of what WebP needs at that quality, to begin with
WORKERS = 4


@dataclass(frozen=True)
class Thumbnail:
    """`uri` holds the image; width and height are of one of its frames, px."""

    uri: str
    width: int
    height: int


def thumbnails(wanted: Iterable[Sequence[Path]]) -> tuple[dict[tuple[Path, ...], Thumbnail], list[str]]:
    """A thumbnail of each sequence of image files: of one file the image, of several (a film) all below each other.

    They share BUDGET_BYTES; a film counts twice. Returns them by their files, and a line for each file that cannot be
    read and so has none.
    """
    strips = list(dict.fromkeys(tuple(files) for files in wanted))
    weights = {files: 1 if len(files) == 1 else 2 for files in strips}
    share = min(LARGEST_BYTES, BUDGET_BYTES // max(1, sum(weights.values())))
    with ThreadPoolExecutor(WORKERS) as pool:  # Pillow works outside Python's lock
        made = pool.map(lambda files: _made(files, share * weights[files]), strips)
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
            return Thumbnail(f"data:image/webp;base64,{base64.b64encode(data).decode()}", *size)
        scale *= max(0.5, 0.95 * math.sqrt(budget_bytes / len(data)))


def read_rgb(file: Path) -> Image.Image:
    """The image, decoded. Raises ValueError, naming the file, where it is damaged."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{file.parent.name}/{file.name} cannot be read as an image ({error})") from error


def _encoded(frames: Sequence[Image.Image], size: tuple[int, int]) -> bytes:
    strip = Image.new("RGB", (size[0], size[1] * len(frames)))
    for i, frame in enumerate(frames):
        small = frame if frame.size == size else frame.resize(size, Image.Resampling.BOX, reducing_gap=1.0)
        strip.paste(small, (0, i * size[1]))
    buffer = io.BytesIO()
    strip.save(buffer, "webp", quality=QUALITY, method=2)
    return buffer.getvalue()
