"""The report's drawings: training curves as SVG for light and dark pages, and one summary picture as PNG."""

import io
import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from experiments.metrics import METRICS
from experiments.results import MEANINGLESS, Results, number_text, verdicts

NOT_CURVES = ("kimg", "elapsed_s", "s_per_kimg", "peak_memory_mb")
CURVE_TITLES = {
    "G_loss": "Generator loss",
    "D_loss": "Discriminator loss",
    "path_length": "Path length",
    "path_penalty": "Path-length penalty",
    "r1": "R1 penalty",
}
THEMES = {
    "light": {"text": "#1d2430", "muted": "#667085", "grid": "#e4e7ec", "rows": "#2f6db5 #d4570b #2b8a3e #8a3ab9"},
    "dark": {"text": "#e8ebf0", "muted": "#98a2b3", "grid": "#333c4a", "rows": "#7ab3f0 #ff9a4d #6fd38a #d49af5"},
}
STYLE: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 9.0, "svg.hashsalt": "mtm", "axes.linewidth": 0.8}
WIDTH_INCHES = 13.0
CREDIT_SIZE = 8
ALARM = "#b42318"
BAND_ASPECT = 6.2
SUMMARY_TITLES = {
    "reals": "Real pictures",
    "offsets": "{row}: learned offsets",
    "fig4": "{row}: offsets on and off, same latents",
}
Picture = tuple[str, Path, float]  # title, file, width over height


def curve_names(results: Results) -> list[str]:
    """Keys of stats.jsonl that are drawn: the known ones in their order, then whatever else a trainer reports."""
    found = {key for result in results.rows for tick in result.stats for key in tick if key not in NOT_CURVES}
    return [key for key in CURVE_TITLES if key in found] + sorted(found - set(CURVE_TITLES))


def curve_title(name: str) -> str:
    """What a curve is called in the report."""
    return CURVE_TITLES.get(name, name)


def curve_svg(results: Results, name: str, theme: str) -> bytes:
    """One curve of all rows against kimg as a self-contained SVG without a background."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        figure.patch.set_alpha(0)
        _draw_curve(figure.subplots(), results, name, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _draw_curve(axes: Axes, results: Results, name: str, theme: str, legend: bool = True) -> None:
    colours = THEMES[theme]
    palette = colours["rows"].split()
    for i, result in enumerate(results.rows):
        points = [(tick["kimg"], tick[name]) for tick in result.stats if name in tick]
        if points:
            marker = "o" if len(points) == 1 else None
            axes.plot(
                *zip(*points, strict=True),
                color=palette[i % len(palette)],
                linewidth=1.6,
                marker=marker,
                label=result.row.title,
                zorder=3 + i,
            )
    axes.set_title(curve_title(name), loc="left", color=colours["text"], fontsize=10, fontweight="bold")
    axes.set_xlabel("kimg", color=colours["muted"])
    axes.grid(color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(colors=colours["muted"], length=0)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colours["grid"])
    if legend and axes.lines:
        axes.legend(frameon=False, labelcolor=colours["text"], fontsize=8.5, handlelength=1.4)


def summary_png(results: Results, path: Path) -> None:
    """One picture of the whole run: verdict, generated and real pictures, the Fig. 4 switch, offsets, curves."""
    bands = _pack(_summary_pictures(results))
    curves = curve_names(results)[:4]
    heights = [1.15, *[_band_inches(band) for band in bands], *[2.7] * bool(curves), 0.35]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=130, facecolor="white", layout="constrained")
        places = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        _write_heading(next(places), results)
        for band in bands:
            ratios = [aspect for _, _, aspect in band]
            columns = next(places).subplots(1, len(band), squeeze=False, width_ratios=ratios)[0]
            for axes, (title, file, _) in zip(columns, band, strict=True):
                _show(axes, title, file)
        if curves:
            columns = next(places).subplots(1, len(curves), squeeze=False)[0]
            for i, (axes, name) in enumerate(zip(columns, curves, strict=True)):
                _draw_curve(axes, results, name, "light", legend=i == 0)
        credit = " ".join(results.credits) if bands else ""
        next(places).text(0.01, 0.5, credit, va="center", color=THEMES["light"]["muted"], fontsize=CREDIT_SIZE)
        figure.savefig(path, format="png", metadata={"Software": None})


def _summary_pictures(results: Results) -> list[Picture]:
    """Generated pictures of the first four rows, real ones, and one row's offsets and switch."""
    generated: list[tuple[str, Path]] = []
    others: dict[str, tuple[str, Path]] = {}
    for result in results.rows:
        if file := result.image("samples"):
            generated.append((f"Generated: {result.row.title}", file))
        for name, title in SUMMARY_TITLES.items():
            if file := result.image(name):
                others.setdefault(name, (title.format(row=result.row.title), file))
    ordered = [*generated[:4], *[others[name] for name in SUMMARY_TITLES if name in others]]
    return [(title, file, aspect_ratio(file)) for title, file in ordered]


def aspect_ratio(file: Path) -> float:
    """Width of a picture over its height."""
    with Image.open(file) as picture:
        return picture.width / picture.height


def _pack(pictures: list[Picture]) -> list[list[Picture]]:
    """Fills bands in order, each up to BAND_ASPECT wide for a height of 1."""
    bands: list[list[Picture]] = []
    for picture in pictures:
        if bands and sum(aspect for _, _, aspect in bands[-1]) + picture[2] <= BAND_ASPECT:
            bands[-1].append(picture)
        else:
            bands.append([picture])
    return bands


def _band_inches(band: list[Picture]) -> float:
    """Height of a band, titles included: its pictures share the width, and none is blown up beyond reason."""
    return 0.4 + min(4.5, WIDTH_INCHES / sum(aspect for _, _, aspect in band))


def _show(axes: Axes, title: str, file: Path) -> None:
    with Image.open(file) as picture:
        axes.imshow(picture.convert("RGB"))
    axes.set_title(title, loc="left", color=THEMES["light"]["text"], fontsize=10.5, fontweight="bold")
    axes.set_anchor("W")
    axes.set_axis_off()


def _write_heading(band, results: Results) -> None:
    text, muted = THEMES["light"]["text"], THEMES["light"]["muted"]
    band.text(0.01, 0.84, results.table.title, va="center", color=text, fontsize=15, fontweight="bold")
    numbers = ";  ".join(
        f"{result.row.title}: {METRICS[name].title} {number_text(value, result.spread(name))}"
        for result in results.rows
        for name, value in result.metrics.items()
    )
    mark = " (meaningless)" if numbers and results.table.meaningless else ""
    band.text(0.01, 0.55, f"{numbers}{mark}" or "no row has finished", va="center", color=text, fontsize=10.5)
    caveat = MEANINGLESS if results.table.meaningless else f"{' '.join(verdicts(results))} {results.one_seed}"
    colour = ALARM if results.table.meaningless else muted
    band.text(0.01, 0.38, textwrap.fill(caveat, 170), va="top", color=colour, fontsize=9)
