"""The study's figures: one point per run with lines between seeds, curves against kimg, the size of offsets over
training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.charts import GRID, MUTED, ROW_COLOURS, STYLE, TEXT
from experiments.metrics import METRICS
from experiments.study.compare import Study

# A panel of paired.png or curves.png: a title, the metric, and the rows to compare.
Panel = tuple[str, str, tuple[str, str]]
PANELS: tuple[Panel, ...] = (
    ("People", "person_rate", ("people-plain", "people-low")),
    ("People", "joint_distance", ("people-plain", "people-low")),
    ("People", "frechet", ("people-plain", "people-low")),
    ("OpenMoji", "frechet", ("openmoji-plain", "openmoji-low")),
    ("Aligned", "frechet", ("aligned-plain", "aligned-low")),
)
SHORT = {"frechet": "Fréchet, random", "frechet_mobilenet": "Fréchet, MobileNetV2"}  # short titles for narrow panels
SIDEWAYS = str.maketrans("↓↑", "←→")  # arrows for a metric along x
CONTROLS = (
    *("people-plain", "people-wide", "people-sees-x", "people-sees-w"),
    *("people-late", "people-low", "people-low-mid", "people-mask"),
)


def paired(study: Study, path: Path) -> None:
    """Plain beside Low: one point per run and one line per seed. Panels without a run are omitted, unless no panel has
    one."""
    shown = _with_runs(study, PANELS)
    with rc_context(STYLE):
        figure, panels = _figure(len(shown), 2.3)
        for axes, (title, metric, rows) in zip(panels, shown, strict=True):
            columns = [study.rows.get(row, {}) for row in rows]
            for seed in sorted(columns[0].keys() | columns[1].keys()):
                places = [
                    (x, value)
                    for x, runs in enumerate(columns)
                    if seed in runs and (value := study.value(runs[seed], metric)) is not None
                ]
                if places:
                    axes.plot(*zip(*places, strict=True), color=MUTED, linewidth=0.8, zorder=2)
                for x, value in places:
                    axes.plot(x, value, "o", color=ROW_COLOURS[x], markersize=5, zorder=3)
            axes.set_xticks((0, 1), ("plain", "Low"))
            axes.set_xlim(-0.4, 1.4)
            _dress(axes, f"{title}: {named(metric)}")
        _save(figure, path)


def controls(study: Study, path: Path) -> None:
    """Every row on people at 32 px: one point per run, and a bar for the mean."""
    with rc_context(STYLE):
        figure, panels = _figure(2, 4.2, height=3.0)
        for axes, metric in zip(panels, ("person_rate", "joint_distance"), strict=True):
            for y, row in enumerate(reversed(CONTROLS)):
                runs = study.rows.get(row, {}).values()
                values = [value for run in runs if (value := study.value(run, metric)) is not None]
                colour = ROW_COLOURS[0] if row in ("people-plain", "people-wide") else ROW_COLOURS[1]
                axes.plot(values, [y] * len(values), "o", color=colour, markersize=4.5, alpha=0.7)
                if values:
                    axes.plot([float(np.mean(values))] * 2, (y - 0.3, y + 0.3), color=colour, linewidth=2)
            axes.set_yticks(range(len(CONTROLS)), [row.removeprefix("people-") for row in reversed(CONTROLS)])
            _dress(axes, named(metric).translate(SIDEWAYS), across=True)
        _save(figure, path)


def curves(study: Study, path: Path) -> None:
    """Each panel's metric against kimg: a thin line per seed, and a thick one for the mean."""
    with rc_context(STYLE):
        kept = _with_runs(
            study, [panel for panel in PANELS if panel[0] != "Aligned"]
        )  # its runs keep no generators during training
        figure, panels = _figure(len(kept), 2.8)
        for axes, (title, metric, rows) in zip(panels, kept, strict=True):
            for row, colour in zip(rows, ROW_COLOURS, strict=False):
                lines = [curve(study, run, metric) for run in study.rows.get(row, {}).values()]
                for line in lines:
                    axes.plot(*zip(*line, strict=True), color=colour, linewidth=0.7, alpha=0.5)
                shared = sorted(set.intersection(*[{x for x, _ in line} for line in lines])) if lines else []
                means = [float(np.mean([dict(line)[x] for line in lines])) for x in shared]
                axes.plot(
                    shared,
                    means,
                    "o-",
                    color=colour,
                    linewidth=1.8,
                    markersize=3,
                    label="Low" if row.endswith("-low") else "plain",
                )
            axes.set_xlabel("kimg", color=MUTED)
            _dress(axes, f"{title}: {named(metric)}")
        panels[0].legend(frameon=False, labelcolor=TEXT)
        _save(figure, path)


def _with_runs(study: Study, panels: Sequence[Panel]) -> Sequence[Panel]:
    return [panel for panel in panels if any(study.rows.get(row) for row in panel[2])] or panels


def named(metric: str) -> str:
    """The metric's title, with an arrow towards better values."""
    return f"{SHORT.get(metric, METRICS[metric].title)} {'↓' if METRICS[metric].lower_is_better else '↑'}"


def curve(study: Study, run: dict[str, Any], metric: str) -> list[tuple[float, float]]:
    """(kimg, value) of the generators that were kept and of the final one."""
    at = [*map(float, run["kept"]), float(run["kimg"])]
    return [(kimg, value) for kimg in at if (value := study.value(run, metric, kimg)) is not None]


def offsets(study: Study, path: Path) -> bool:
    """The root mean square of each layer's offsets over the training of people-low, in px of the layer. Returns False
    and writes no file if no run was analysed."""
    looked = [
        run["analysis"]["limbs"] for run in study.rows.get("people-low", {}).values() if run["analysis"].get("limbs")
    ]
    if not looked:
        return False
    with rc_context(STYLE):
        figure, (axes,) = _figure(1, 3.6, height=2.6)
        layers = list(looked[0]["offset_rms_px"][0]["layers"])
        for layer, colour in zip(layers, ROW_COLOURS, strict=False):
            for i, found in enumerate(looked):
                line = [(one["kimg"], one["layers"][layer]) for one in found["offset_rms_px"]]
                axes.plot(
                    *zip(*line, strict=True),
                    "o-",
                    color=colour,
                    markersize=3,
                    label=None if i else f"{layer.removeprefix('convs.')} px layer",
                )
        axes.set_xlabel("kimg", color=MUTED)
        axes.set_ylim(bottom=0)  # leaves room for the legend
        axes.legend(frameon=False, labelcolor=TEXT)
        _dress(axes, "Offsets, root mean square, px")
        _save(figure, path)
    return True


def _figure(count: int, width: float, height: float = 2.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * count, height), dpi=110, facecolor="white", layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _dress(axes: Axes, title: str, across: bool = False) -> None:
    axes.set_title(title, loc="left", color=TEXT, fontsize=8.5, fontweight="bold")
    axes.grid(axis="x" if across else "y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})
