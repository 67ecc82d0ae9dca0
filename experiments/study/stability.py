"""The unstable runs of study-stability, by the rule that docs/study.md fixed before the runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.study.compare import Study
from experiments.study.statistics import NOT_RUN
from experiments.table import load_table

TABLE = "study-stability"
METRIC = "frechet"
LIMIT = 1.5  # a run is unstable if its last distance is over this many times the lowest one before


@dataclass(frozen=True)
class Row:
    """The runs of a row: their number, how many failed or got worse again, and the results of those that ended."""

    id: str
    ended: int
    failed: int
    worse: int
    last: tuple[float, ...]
    rise: tuple[float, ...]  # last distance / lowest distance before; above 1 if it rose


def stability(study: Study) -> list[Row]:
    """The rows of the table, in the table's order."""
    return [_row(study, row.id) for row in load_table(TABLE, study.content["preset"] or "full").rows]


def _row(study: Study, row_id: str) -> Row:
    planned = [run for run in study.content["runs"] if run["row"] == row_id and study.is_planned(run)]
    done = list(study.rows.get(row_id, {}).values())
    failed = {run["seed"] for run in planned if run["status"] == "failed"} - {run["seed"] for run in done}
    last = tuple(value for run in done if (value := study.value(run, METRIC)) is not None)
    rise = tuple(found for run in done if (found := rise_of(study, run)) is not None)
    worse = sum(one > LIMIT for one in rise)
    return Row(row_id, len(done) + len(failed), len(failed), worse, last, rise)


def rise_of(study: Study, run: dict[str, Any]) -> float | None:
    """The last distance relative to the lowest one of the generators that were kept during training."""
    last = study.value(run, METRIC)
    kept = [value for kimg in run["kept"] if (value := study.value(run, METRIC, float(kimg))) is not None]
    return last / min(kept) if last is not None and kept else None


def stability_lines(study: Study) -> Iterator[str]:
    """The table as Markdown."""
    yield f"Unstable: a loss was not finite, or the last Fréchet distance is over {LIMIT:g} times the lowest before."
    yield "Why a run failed stands under Every run."
    yield ""
    yield "| row | runs | failed | worse again | Fréchet distance, mean (of each) | last / lowest on the way |"
    yield "|---|---|---|---|---|---|"
    for row in stability(study):
        if not row.ended:
            yield f"| `{row.id}` | {NOT_RUN} |||||"
            continue
        mean = f"{np.mean(row.last):.3g} ({', '.join(f'{value:.3g}' for value in row.last)})" if row.last else "–"
        rise = ", ".join(f"{value:.2f}" for value in row.rise) or "–"
        yield f"| `{row.id}` | {row.ended} | {row.failed} | {row.worse} | {mean} | {rise} |"
