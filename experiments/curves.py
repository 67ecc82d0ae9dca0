"""Training curves as panels for the report's template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from experiments.results import RowResult

# Curves that are drawn if a trainer reports them and they vary, most informative first. All others stay in the
# trainer's files.
CURVE_TITLES = {
    "G_loss": "Generator loss",
    "D_loss": "Discriminator loss",
    "augment": "Augmentation strength",
    "path_length": "Path length",
    "r1": "R1 penalty",
    "path_penalty": "Path-length penalty",
}
MOST_PANELS = 4
MOST_POINTS = 120  # per line; neighbours are averaged if there are more
WIDTH, HEIGHT = 340, 190  # of a panel, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22

Line = list[tuple[float, float]]


def curve_names(rows: Sequence[RowResult]) -> list[str]:
    """The curves worth drawing for these rows: known ones that vary, at most MOST_PANELS."""
    told = [name for name in CURVE_TITLES if any(_varies(line) for row in rows for line in lines_of(row, name))]
    return told[:MOST_PANELS]


def lines_of(row: RowResult, name: str) -> list[Line]:
    """One line of (kimg, value) for each of the row's runs that reports the curve, without non-finite values."""
    lines = []
    for run in row.runs:
        points = [(tick.kimg, tick.curves[name]) for tick in run.ticks if name in tick.curves]
        if line := [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]:
            lines.append(line)
    return lines


def _varies(line: Line) -> bool:
    return len({y for _, y in line}) > 1


def panels(rows: Sequence[RowResult]) -> list[dict[str, Any]]:
    """One panel per curve: {"title", "x_ticks", "y_ticks": [(position, text)], "lines": [{"colour": index of the row,
    "points", "first": whether it is the row's first run}]}, positions in SVG units."""
    return [_panel(rows, name) for name in curve_names(rows)]


def _panel(rows: Sequence[RowResult], name: str) -> dict[str, Any]:
    found = [(i, run == 0, line) for i, row in enumerate(rows) for run, line in enumerate(lines_of(row, name))]
    xs, ys = zip(*[point for _, _, line in found for point in line], strict=True)
    x_low, x_high, y_low, y_high = 0.0, max(xs), min(ys), max(ys)
    x_scale = (WIDTH - LEFT - RIGHT) / ((x_high - x_low) or 1)
    y_scale = (HEIGHT - TOP - BOTTOM) / ((y_high - y_low) or 1)

    def place_x(x: float) -> float:
        return round(LEFT + (x - x_low) * x_scale, 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) * y_scale, 1)

    lines = [
        {"colour": i, "first": first, "points": " ".join(f"{place_x(x)},{place_y(y)}" for x, y in _thinned(line))}
        for i, first, line in found
    ]
    return {
        "title": CURVE_TITLES[name],
        "x_ticks": [(place_x(x), f"{x:g}") for x in _ticks(x_low, x_high)],
        "y_ticks": [(place_y(y), f"{y:g}") for y in _ticks(y_low, y_high)],
        "lines": lines,
    }


def _ticks(low: float, high: float) -> list[float]:
    places = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [round(float(place), 12) for place in places if low <= place <= high]


def _thinned(line: Line) -> Line:
    """The line with at most MOST_POINTS points, each the mean of neighbours."""
    size = math.ceil(len(line) / MOST_POINTS)
    parts = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
