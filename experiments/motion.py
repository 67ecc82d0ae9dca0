"""Small animations of generated videos (animated WebP), from the rows of frames in films.png."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from experiments.sheets import FILM_FRAMES, GAP_COLOUR, GAP_PX
from experiments.thumbnails import Thumbnail, read_rgb

FRAME_MS, LAST_MS = 160, 700  # duration of a frame; the last one is longer, so that the loop's start is visible
SIDES_PX = (128, 96, 64, 48)  # of a frame; the largest that fits the budget is used
BUDGET_BYTES = 40_000  # per animation, which holds all videos of a row
ALL_BYTES = 1_000_000  # for all animations of a report
QUALITY = 70


def animations(files: Iterable[Path]) -> dict[Path, Thumbnail]:
    """An animation for each films.png, with its videos side by side. All together take about ALL_BYTES at most.

    A file that cannot be read or has another layout gets no animation: the report shows its strip, or lists the file
    as unreadable.
    """
    wanted = list(dict.fromkeys(files))
    budget_bytes = min(BUDGET_BYTES, ALL_BYTES // max(1, len(wanted)))
    made = {file: _animation(file, budget_bytes) for file in wanted}
    return {file: animation for file, animation in made.items() if animation}


def _animation(file: Path, budget_bytes: int) -> Thumbnail | None:
    try:
        frames = film_frames(read_rgb(file))
    except ValueError:
        return None
    for side_px in SIDES_PX:
        size = round(frames[0].width * side_px / frames[0].height), side_px
        data = _encoded([frame.resize(size, Image.Resampling.LANCZOS) for frame in frames])
        if len(data) <= budget_bytes or side_px == SIDES_PX[-1]:
            return Thumbnail(f"data:image/webp;base64,{base64.b64encode(data).decode()}", *size)
    return None


def film_frames(sheet: Image.Image) -> list[Image.Image]:
    """FILM_FRAMES images in order: each has the same frame of every video, side by side.

    `sheet` has a row of FILM_FRAMES square frames per video, with GAP_PX around each (experiments.images.grid). Raises
    ValueError for another layout.
    """
    side, rest = divmod(sheet.width - GAP_PX, FILM_FRAMES)
    count, rest_below = divmod(sheet.height - GAP_PX, side) if side > GAP_PX else (0, 0)
    if rest or rest_below or not count:
        raise ValueError(f"film_frames: sheet must have {FILM_FRAMES} square frames a row; got {sheet.size} px.")
    cell = side - GAP_PX
    frames = []
    for i in range(FILM_FRAMES):
        frame = Image.new("RGB", (count * side - GAP_PX, cell), GAP_COLOUR)
        for video in range(count):
            left, top = GAP_PX + i * side, GAP_PX + video * side
            frame.paste(sheet.crop((left, top, left + cell, top + cell)), (video * side, 0))
        frames.append(frame)
    return frames


def _encoded(frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    lengths_ms = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(
        buffer,
        "webp",
        save_all=True,
        append_images=frames[1:],
        duration=lengths_ms,
        loop=0,
        quality=QUALITY,
        method=4,
    )
    return buffer.getvalue()
