"""One PNG that summarises the paper's tables: for every row the paper's number, ours, the difference and the status;
samples of each trainer; a training curve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from experiments.contact import COLUMNS, read_strip, wrapped
from experiments.curves import HEIGHT, LEFT, RIGHT, WIDTH, panels
from experiments.report_table import NONE, TableRow, TableText, counts_text, tables_text
from experiments.results import Results, RowResult
from experiments.thumbnails import uniform_note

TEXT, MUTED, RULE, ALARM = "#1d2430", "#5d6878", "#d5dae1", "#b42318"
STATUS = {"done": "#1f7a37", "failed": ALARM, "interrupted": ALARM, "partial": "#8a6d00"}
LINES = ("#2f6db5", "#d4570b", "#2b8a3e", "#8a3ab9")
WIDTH_PX, MARGIN_PX, GUTTER_PX = 1500, 30, 44
COLUMN_PX = (WIDTH_PX - 2 * MARGIN_PX - GUTTER_PX) // 2
LINE_PX, TITLE_PX, BLOCK_GAP_PX = 27, 34, 22
PAPER_AT, OURS_AT, DIFFERENCE_AT, STATUS_AT = 358, 472, 582, 598  # right edges of numbers, left edge of the status
SHOWN = (0, 1, 3)  # columns of the contact sheet that are shown: plain, MTM, offset field
LABEL_PX, STRIP_PX, STRIP_GAP_PX, PLOT_PX = 190, 264, 12, 395
MOST_TRAINERS = 6
Font = ImageFont.FreeTypeFont


@cache
def font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans from matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def paper_png(results: Results, path: Path) -> None:
    """Draws the summary of a table with sections to `path`."""
    tables = tables_text(results)
    trainers = _trainers(results)
    sheet = Image.new("RGB", (WIDTH_PX, 20_000), "white")
    draw = ImageDraw.Draw(sheet)
    top = _heading(draw, results)
    columns = _two_columns(tables)
    ends = [_column(draw, MARGIN_PX + i * (COLUMN_PX + GUTTER_PX), top, column) for i, column in enumerate(columns)]
    top = max(ends) + 12
    if trainers:
        images_end = _samples(sheet, draw, top, trainers)
        plot_end = _curve(draw, WIDTH_PX - MARGIN_PX - PLOT_PX, top, trainers)
        top = max(images_end, plot_end) + 8
        for credit in results.credits:
            top = _paragraph(draw, (MARGIN_PX, top), " ".join(credit.split()), font(15), MUTED) + 6
    sheet.crop((0, 0, WIDTH_PX, top + 14)).save(path, format="png", optimize=True)


def _paragraph(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, face: Font, colour: str) -> int:
    """Writes text over the whole width, and returns the y at which it ends."""
    lines = wrapped(text, face, WIDTH_PX - MARGIN_PX - at[0])
    draw.multiline_text(at, lines, colour, face, spacing=6)
    return at[1] + (lines.count("\n") + 1) * (round(face.size) + 8)


def _heading(draw: ImageDraw.ImageDraw, results: Results) -> int:
    table = results.table
    top = _paragraph(draw, (MARGIN_PX, 24), table.title, font(29, bold=True), TEXT) + 4
    counts = counts_text(result.status for result in results.rows)
    told = f"Rows: {counts}. Each row shows its table's first metric; the report has all, with verdicts and costs."
    top = _paragraph(draw, (MARGIN_PX, top), told, font(18), MUTED)
    if table.meaningless:
        told = f"Smoke test: {' '.join(table.applied.about.split())}. These numbers say nothing about any method."
        top = _paragraph(draw, (MARGIN_PX, top), told, font(18, bold=True), ALARM)
    elif table.preset != "full":
        told = f"Preset {table.preset}: {' '.join(table.applied.about.split())}."
        top = _paragraph(draw, (MARGIN_PX, top), told, font(18), MUTED)
    return top + 18


def _height(table: TableText) -> int:
    return TITLE_PX + (1 + len(table.rows)) * LINE_PX + BLOCK_GAP_PX


def _two_columns(tables: list[TableText]) -> tuple[list[TableText], list[TableText]]:
    """The tables, in order, divided into two columns of the most similar heights."""
    heights = [_height(table) for table in tables]
    cut = min(range(len(tables) + 1), key=lambda i: (max(sum(heights[:i]), sum(heights[i:])), -i))
    return tables[:cut], tables[cut:]


def _column(draw: ImageDraw.ImageDraw, left: int, top: int, tables: list[TableText]) -> int:
    for table in tables:
        metric = next((row.lines[0].metric for row in table.rows if row.lines[0].metric != NONE), "")
        title = f"{table.title}{': ' if ':' not in table.title else ', '}{metric}" if metric else table.title
        draw.text((left, top), _cut(title, font(19, bold=True), COLUMN_PX), TEXT, font(19, bold=True))
        top += TITLE_PX
        for text, right in (("paper", PAPER_AT), ("ours", OURS_AT), ("difference", DIFFERENCE_AT)):
            draw.text((left + right, top), text, MUTED, font(16), anchor="ra")
        draw.text((left + STATUS_AT, top), "status", MUTED, font(16))
        top += LINE_PX
        for row in table.rows:
            draw.line((left, top - 3, left + COLUMN_PX, top - 3), RULE)
            _row(draw, left, top, row)
            top += LINE_PX
        top += BLOCK_GAP_PX
    return top


def _row(draw: ImageDraw.ImageDraw, left: int, top: int, row: TableRow) -> None:
    line = row.lines[0]
    draw.text((left, top), _cut(row.title, font(18), PAPER_AT - 80), TEXT, font(18))
    ours = MUTED if line.grey else TEXT
    draw.text((left + PAPER_AT, top), line.paper, TEXT, font(18), anchor="ra")
    for text, right in ((line.ours, OURS_AT), (line.difference, DIFFERENCE_AT)):
        draw.text((left + right, top), text, ours, font(18), anchor="ra")
    status = _cut(row.status, font(16), COLUMN_PX - STATUS_AT)
    draw.text((left + STATUS_AT, top + 2), status, STATUS.get(row.kind, MUTED), font(16))


def _cut(text: str, face: Font, width_px: int) -> str:
    """The text, cut with an ellipsis if it is wider than `width_px`."""
    if face.getlength(text) <= width_px:
        return text
    while text and face.getlength(f"{text}…") > width_px:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _trainers(results: Results) -> list[list[RowResult]]:
    """For each trainer and configuration, a baseline that has images and, if there is one, the first row with images
    that is compared with it."""
    found: dict[tuple[str, str], list[RowResult]] = {}
    for result in results.rows:
        row = result.row
        key = row.trainer, str(row.options.get("cfg", ""))
        if row.baseline is None and result.image("strip"):
            others = [other for other in results.rows if other.row.baseline == row.id and other.image("strip")]
            if key not in found or len(found[key]) < 2 <= 1 + len(others):
                found[key] = [result, *others[:1]]
    return list(found.values())[:MOST_TRAINERS]


def _samples(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, trainers: list[list[RowResult]]) -> int:
    """Draws a row of strips for each trainer. Images are not selected, and their contrast is not stretched."""
    lefts = [MARGIN_PX + LABEL_PX + i * (STRIP_PX + STRIP_GAP_PX) for i in range(len(SHOWN))]
    for left, column in zip(lefts, SHOWN, strict=True):
        draw.text((left, top), COLUMNS[column][0], TEXT, font(18, bold=True))
    top += 32
    for pair in trainers:
        strips: list[Image.Image | None] = [read_strip(pair[0], "strip", STRIP_PX)]
        strips += [read_strip(*COLUMNS[i][1](pair[0], pair[1]), STRIP_PX) if len(pair) > 1 else None for i in SHOWN[1:]]
        height = max(strip.height for strip in strips if strip) if any(strips) else LINE_PX
        label = wrapped(pair[0].row.title, font(17), LABEL_PX - 14)
        draw.multiline_text((MARGIN_PX, top), label, TEXT, font(17), spacing=4)
        whole = read_strip(pair[0], "strip", None)  # not resized, which would blend the colour of the gaps
        if whole and uniform_note(whole):
            below = top + (label.count("\n") + 1) * 23
            draw.text((MARGIN_PX, below), "(nearly uniform)", MUTED, font(15))
        for left, strip in zip(lefts, strips, strict=True):
            if strip:
                sheet.paste(strip, (left, top))
            else:
                draw.text((left, top + height / 2), NONE, MUTED, font(17), anchor="lm")
        top += height + STRIP_GAP_PX
    return top


def _curve(draw: ImageDraw.ImageDraw, left: int, top: int, trainers: Sequence[list[RowResult]]) -> int:
    """Draws the most informative curve of the first trainer that has one, with a legend."""
    rows, panel = next(((rows, found[0]) for rows in trainers if (found := panels(rows))), (None, None))
    if rows is None or panel is None:
        return top
    draw.text((left, top), panel["title"], TEXT, font(18, bold=True))
    top += 34
    scale = PLOT_PX / WIDTH
    for place, text in panel["y_ticks"]:
        y = top + place * scale
        draw.line((left + LEFT * scale, y, left + (WIDTH - RIGHT) * scale, y), RULE)
        draw.text((left + (LEFT - 6) * scale, y), text, MUTED, font(14), anchor="rm")
    for place, text in panel["x_ticks"]:
        draw.text((left + place * scale, top + (HEIGHT - 16) * scale), text, MUTED, font(14), anchor="ma")
    for line in panel["lines"]:
        points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
        places = [(left + x * scale, top + y * scale) for x, y in points]
        thick = 3 + 2 * (len(rows) - 1 - line["colour"])  # so that a line under another one stays visible
        draw.line(places, LINES[line["colour"] % len(LINES)], width=thick if line["first"] else 1, joint="curve")
    top += round(HEIGHT * scale) + 6
    draw.text((left + PLOT_PX, top), "kimg", MUTED, font(14), anchor="ra")
    for i, row in enumerate(rows):
        draw.line((left, top + 10, left + 22, top + 10), LINES[i % len(LINES)], width=4)
        draw.text((left + 32, top), _cut(row.row.title, font(16), PLOT_PX - 90), TEXT, font(16))
        top += 26
    return top
