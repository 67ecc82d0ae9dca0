"""Analyses the finished runs of people-low in a folder with experiments.study.limbs, and saves the results in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from experiments.data import Data
from experiments.files import atomic_output
from experiments.mini import KEPT
from experiments.results import RunResult, load_results
from experiments.study.gather import ANALYSIS
from experiments.study.limbs import look
from experiments.trainers.contract import TRAIN, load_run
from experiments.trainers.mini import SNAPSHOT, kept_kimg

ROW, BASELINE = "people-low", "people-plain"


def look_at_all(out: Path, again: bool, say: Callable[[str], None]) -> list[tuple[Path, Path | None]]:
    """Writes analysis/limbs.json for each run, unless it exists and not `again`. Returns the final generators of the
    runs, each with that of the plain run with the same seed. Raises UserError if BlazePose's weights are missing."""
    rows = {row.row.id: row for row in load_results(out).rows}
    done = {name: {run.seed: run for run in rows[name].runs if run.status == "done"} for name in rows}
    pairs = []
    for seed, run in sorted(done.get(ROW, {}).items()):
        assert run.folder is not None
        other = done.get(BASELINE, {}).get(seed)
        pairs.append((final_of(run), final_of(other) if other else None))
        path = run.folder / ANALYSIS / "limbs.json"
        if path.exists() and not again:
            say(f"{ROW}/{seed}: done already")
            continue
        options = load_run(run.folder)
        kept = {kimg: run.folder / TRAIN / KEPT.format(kimg=kimg) for kimg in kept_kimg(options)}
        found = look(*pairs[-1], kept | {run.kimg: final_of(run)})
        with atomic_output(path) as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"{ROW}/{seed}: R² of joints from offsets {found['displacement']['r2_offsets']}, {path}")
    return pairs


def final_of(run: RunResult) -> Path:
    assert run.folder is not None
    return run.folder / TRAIN / SNAPSHOT


def data_of(out: Path, cache: Path) -> Path | None:
    """The data set of those runs; None if it is not in `cache`."""
    table = load_results(out).table
    path = Data(table, {}, cache).path(next(row.dataset for row in table.rows if row.id == ROW))
    return path if path.exists() else None
