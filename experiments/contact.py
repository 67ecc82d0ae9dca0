"""The contact sheet of a table with several trainers: one row per trainer, plain and MTM side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from experiments.files import atomic_output
from experiments.results import RowResult
from experiments.thumbnails import read_rgb

NAME = "contact.png"  # in the table's folder
STRIP_PX = 480  # the width of a cell
GAP_PX, HEAD_PX, LABEL_PX, TEXT_PX = 10, 44, 270, 25

Cell = tuple[str, Callable[[RowResult, RowResult], tuple[RowResult, str]]]
COLUMNS: tuple[Cell, ...] = (
    ("Plain", lambda plain, mtm: (plain, "strip")),
    ("MTM", lambda plain, mtm: (mtm, "strip")),
    ("MTM, offsets off", lambda plain, mtm: (mtm, "strip-off")),
    ("Offset field", lambda plain, mtm: (mtm, "strip-field")),
)


def write_contact_sheet(out: Path, groups: Sequence[Sequence[RowResult]]) -> Path | None:
    """Writes the sheet into the table's folder and returns its path. If there is nothing to draw, removes an old sheet
    and returns None."""
    path = out / NAME
    if (sheet := contact_sheet(groups)) is None:
        path.unlink(missing_ok=True)
        return None
    with atomic_output(path) as temporary:
        sheet.save(temporary, format="png")
    return path


def contact_sheet(groups: Sequence[Sequence[RowResult]]) -> Image.Image | None:
    """One line for each baseline and the first row that is compared with it: images of both, images with the offsets
    switched off, and the offsets; videos as a strip of frames. None if fewer than two pairs have images."""
    pairs = [(group[0], group[1]) for group in groups if len(group) > 1 and group[1].row.baseline == group[0].row.id]
    rows = [(plain.row.title, _strips(plain, mtm)) for plain, mtm in pairs]
    rows = [(title, strips) for title, strips in rows if any(strips)]
    if len(rows) < 2:
        return None
    heights = [max(strip.height for strip in strips if strip) for _, strips in rows]
    width = LABEL_PX + len(COLUMNS) * (STRIP_PX + GAP_PX)
    sheet = Image.new("RGB", (width, HEAD_PX + sum(height + GAP_PX for height in heights)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for column, (title, _) in enumerate(COLUMNS):
        draw.text((LABEL_PX + column * (STRIP_PX + GAP_PX), HEAD_PX / 2), title, "black", font, anchor="lm")
    top = HEAD_PX
    for (title, strips), height in zip(rows, heights, strict=True):
        label = wrapped(title, font, LABEL_PX - 2 * GAP_PX)
        draw.multiline_text((GAP_PX, top + height / 2), label, "black", font, anchor="lm", spacing=5)
        for column, strip in enumerate(strips):
            at = LABEL_PX + column * (STRIP_PX + GAP_PX), top
            if strip:
                sheet.paste(strip, at)
            else:
                draw.text((at[0], top + height / 2), "not there", "#b42318", font, anchor="lm")
        top += height + GAP_PX
    return sheet


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> str:
    """The text wrapped to `width_px`; a single wider word stays whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(line for line in lines if line)


def _strips(plain: RowResult, mtm: RowResult) -> list[Image.Image | None]:
    return [read_strip(*choose(plain, mtm)) for _, choose in COLUMNS]


def read_strip(result: RowResult, name: str, width_px: int | None = STRIP_PX) -> Image.Image | None:
    """One of the row's images, resized to `width_px` or unchanged if that is None; None if it is missing or
    unreadable."""
    file = result.image(name)
    if file is None:
        return None
    try:
        strip = read_rgb(file)
    except ValueError:  # the report lists the run's problems
        return None
    if width_px is None:
        return strip
    return strip.resize((width_px, round(strip.height * width_px / strip.width)), Image.Resampling.LANCZOS)
