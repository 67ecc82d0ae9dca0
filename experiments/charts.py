"""One PNG that summarises a table: verdict, generated and real images, the Fig. 4 switch, learned offsets, curves."""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from experiments.curves import CURVE_TITLES, curve_names, lines_of
from experiments.metrics import METRICS
from experiments.results import SMOKE, Results, RowResult, number_text, verdicts
from experiments.thumbnails import read_rgb

TEXT, MUTED, GRID, ALARM = "#1d2430", "#667085", "#e4e7ec", "#b42318"
ROW_COLOURS = ("#2f6db5", "#d4570b", "#2b8a3e", "#8a3ab9")
STYLE: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 9.0, "axes.linewidth": 0.8}
WIDTH_INCHES = 13.0
CREDIT_SIZE = 8
BAND_ASPECT = 6.2
TITLE_INCHES = 0.092  # width of one character of an image's title
HEADING_CHARACTERS = 150  # per line of the heading
MOST_ROWS = len(ROW_COLOURS)  # the report shows all of them
SUMMARY_TITLES = {
    "reals": "Real images",
    "offsets": "{row}: learned offsets",
    "fig4": "{row}: offsets on and off, same latents",
}
Titled = tuple[str, Image.Image]


def summary_png(results: Results, path: Path) -> None:
    """Draws the first MOST_ROWS rows that have something to show to `path`."""
    rows = ([row for row in results.rows if row.entry or row.first.ticks] or results.rows)[:MOST_ROWS]
    bands = _pack(_summary_images(rows))
    curves = curve_names(rows)
    heading = _heading(results, rows)
    heights = [
        0.2 + sum(height for *_, height in heading),
        *[_band_inches(band) for band in bands],
        *[2.7] * bool(curves),
        0.35,
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=130, facecolor="white", layout="constrained")
        places = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _write_heading(next(places), heading, heights[0])
        for band in bands:
            ratios = [_room(titled) for titled in band]
            columns = next(places).subplots(1, len(band), squeeze=False, width_ratios=ratios)[0]
            for axes, (title, image) in zip(columns, band, strict=True):
                _show(axes, title, image)
        if curves:
            columns = next(places).subplots(1, len(curves), squeeze=False)[0]
            for i, (axes, name) in enumerate(zip(columns, curves, strict=True)):
                _draw_curve(axes, rows, name, legend=i == 0)
        credit = " ".join(results.credits) if bands else ""
        next(places).text(0.01, 0.5, credit, va="center", color=MUTED, fontsize=CREDIT_SIZE)
        figure.savefig(path, format="png", metadata={"Software": None})


def _draw_curve(axes: Axes, rows: list[RowResult], name: str, legend: bool) -> None:
    for row, colour in zip(rows, ROW_COLOURS, strict=False):
        for i, line in enumerate(lines_of(row, name)):
            label = None if i else row.row.title
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=0.8 if i else 1.6, label=label, zorder=3)
    axes.set_title(CURVE_TITLES[name], loc="left", color=TEXT, fontsize=10, fontweight="bold")
    axes.set_xlabel("kimg", color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(colors=MUTED, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    if legend and axes.lines:
        axes.legend(frameon=False, labelcolor=TEXT, fontsize=8.5, handlelength=1.4)


def _summary_images(rows: list[RowResult]) -> list[Titled]:
    """Generated images of each row, real images, and one row's offsets and Fig. 4. Leaves out unreadable files."""
    generated: list[Titled] = []
    others: dict[str, Titled] = {}
    for result in rows:
        if image := _read(result.image("samples")):
            generated.append((f"Generated: {result.row.title}", image))
        for name, title in SUMMARY_TITLES.items():
            if name not in others and (image := _read(result.image(name))):
                others[name] = title.format(row=result.row.title), image
    return [*generated, *[others[name] for name in SUMMARY_TITLES if name in others]]


def _read(file: Path | None) -> Image.Image | None:
    try:
        return read_rgb(file) if file else None
    except ValueError:
        return None  # the report lists the unreadable file


def _room(titled: Titled) -> float:
    """The width that an image of height 1 needs: its own or its title's, whichever is larger."""
    title, image = titled
    return max(image.width / image.height, BAND_ASPECT * TITLE_INCHES * len(title) / WIDTH_INCHES)


def _pack(images: list[Titled]) -> list[list[Titled]]:
    """Fills bands with the images in order; each band is at most BAND_ASPECT wide at height 1."""
    bands: list[list[Titled]] = []
    for titled in images:
        if bands and sum(_room(other) for other in bands[-1]) + _room(titled) <= BAND_ASPECT:
            bands[-1].append(titled)
        else:
            bands.append([titled])
    return bands


def _band_inches(band: list[Titled]) -> float:
    """Height of a band in inches, titles included. Its images share the width, up to a maximum height."""
    return 0.4 + min(4.5, WIDTH_INCHES / sum(_room(titled) for titled in band))


def _show(axes: Axes, title: str, image: Image.Image) -> None:
    axes.imshow(image)
    axes.set_title(title, loc="left", color=TEXT, fontsize=10.5, fontweight="bold")
    axes.set_anchor("W")
    axes.set_axis_off()


def _heading(results: Results, rows: list[RowResult]) -> list[tuple[str, dict[str, Any], float]]:
    """The heading's paragraphs: (wrapped text, text properties, height in inches)."""
    numbers = ";  ".join(
        f"{result.row.title}: {METRICS[name].title} {number_text(value, result.spread(name))}{result.mark(name)}"
        for result in rows
        for name, value in result.metrics.items()
    )
    more = f"  (the first {len(rows)} of {len(results.rows)} rows)" if len(rows) < len(results.rows) else ""
    told = " ".join(sentence for sentence in verdicts(results)[:MOST_ROWS])
    smoke = results.table.meaningless
    paragraphs: list[tuple[str, dict[str, Any]]] = [
        (results.table.title, {"color": TEXT, "fontsize": 15, "fontweight": "bold"}),
        (f"{numbers}{more}" if numbers else "no row has finished", {"color": TEXT, "fontsize": 10.5}),
        (SMOKE if smoke else f"{told} {results.one_seed}".strip(), {"color": ALARM if smoke else MUTED, "fontsize": 9}),
    ]
    heading = []
    for text, how in paragraphs:
        lines = textwrap.wrap(text, int(HEADING_CHARACTERS * 9.5 / how["fontsize"]))
        heading.append(("\n".join(lines), how, len(lines) * how["fontsize"] / 48 + 0.08))
    return heading


def _write_heading(band: Any, heading: list[tuple[str, dict[str, Any], float]], inches: float) -> None:
    top = inches - 0.08
    for text, how, height in heading:
        band.text(0.01, top / inches, text, va="top", **how)
        top -= height
